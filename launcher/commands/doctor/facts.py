"""What the probes have found, as values that go from node to node as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """One GPU, as its driver describes it; None: the driver does not say."""

    index: int
    name: str
    uuid: str
    uncorrected_errors: int | None = None
    """Of ECC, since the driver was loaded."""
    throttle_mask: int | None = None
    temperature_c: int | None = None
    used_bytes: int | None = None
    total_bytes: int | None = None
    pids: tuple[int, ...] | None = ()
    """Processes that compute on it, as far as this container sees them."""


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """One node."""

    host: str
    versions: Mapping[str, str | None]
    """relaunch, python, torch, cuda, driver, deepspeed; None: not there."""
    gpus: tuple[GpuFacts, ...] = ()
    shared_memory_free_bytes: int | None = None
    open_files: int | None = None
    """None: no limit."""
    processes_left: int | None = None
    """How many more may be started; None: no limit is known."""
    interfaces: tuple[str, ...] = ()
    """That are up, without the loopback."""
    address: str | None = None
    """Which the host's own name stands for."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """By line of the report: why it was not looked at."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> NodeFacts:
        """Return what `asdict` has made."""
        gpus = tuple(
            GpuFacts(**{**g, "pids": None if g["pids"] is None else tuple(g["pids"])})
            for g in found["gpus"]
        )
        return cls(**{**found, "gpus": gpus, "interfaces": tuple(found["interfaces"])})

    def to_json(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FolderFacts:
    """The folder in which runs are to be kept."""

    path: str
    write_bytes_per_s: float | None = None
    free_bytes: int | None = None
    locks: bool | None = None
    """Whether a lock keeps a second holder out."""
    renames: bool | None = None
    """Whether a folder can be renamed, and is found under its new name alone."""
    problem: str = ""
    """Why nothing could be written; empty: it could."""


@dataclass(frozen=True, kw_only=True)
class PairSpeed:
    """What two ranks send each other."""

    left: int
    right: int
    bytes_per_s: float


@dataclass(frozen=True, kw_only=True)
class RanksFacts:
    """What the ranks found together."""

    world_size: int
    backend: str
    hosts: tuple[str, ...]
    """By rank."""
    all_reduce_bytes_per_s: float
    pairs: tuple[PairSpeed, ...] = ()
    clock_skew_s: float = 0.0
    """Between the latest and the earliest clock, as they left one barrier."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> RanksFacts:
        """Return what `asdict` has made."""
        pairs = tuple(PairSpeed(**pair) for pair in found["pairs"])
        return cls(**{**found, "pairs": pairs, "hosts": tuple(found["hosts"])})


@dataclass(frozen=True, kw_only=True)
class JobTime:
    """What a batch system gives this job; None: not known."""

    left_s: float | None = None
    grace_s: float | None = None
    kill_wait_s: float | None = None
    may_requeue: bool = True
    problem: str = ""
    """Why the batch system did not answer."""
