"""GPUs through nvidia-smi: what is asked, and how its answer is read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence

from .facts import GpuFacts

_FEWEST = ("index", "name", "uuid")
_MEMORY = ("temperature.gpu", "memory.used", "memory.total")
_ERRORS = "ecc.errors.uncorrected.volatile.total"
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""Why the clock is lower: as drivers from 535 on call it, and as all older ones do."""
_ASKED = (*((*_FEWEST, _ERRORS, reasons, *_MEMORY) for reasons in _REASONS), _FEWEST)
"""A driver that does not know one field answers nothing."""
_ANSWER_S = 20.0
_MIB = 1 << 20

Ask = Callable[[Sequence[str]], str | None]
"""Runs a command; returns what it printed, or None where it failed."""


class NoGpuAnswerError(Exception):
    """nvidia-smi is there and does not answer."""


def look(ask: Ask | None = None) -> tuple[GpuFacts, ...]:
    """Return the GPUs of this node; none where there is no nvidia-smi.

    Raises:
        NoGpuAnswerError: it is there and says nothing, as without permission.
    """
    ask = _run if ask is None else ask
    if ask(("nvidia-smi", "-L")) is None and ask is _run and not _is_there():
        return ()
    for fields in _ASKED:
        text = ask(_query("gpu", fields))
        if text is not None:
            return parse(text, fields, ask(_query("compute-apps", ("gpu_uuid", "pid"))))
    raise NoGpuAnswerError("nvidia-smi is there and does not answer; no permission, or no driver")


def parse(text: str, fields: Sequence[str], users: str | None) -> tuple[GpuFacts, ...]:
    """Read the answers of nvidia-smi. Pure.

    Args:
        text: one line of comma-separated values a GPU, in the order of `fields`.
        fields: what was asked.
        users: one line a process: the GPU's uuid and the process id; None: no answer.
    """
    pids: dict[str, list[int]] | None = None if users is None else {}
    for line in (users or "").splitlines():
        uuid, _, pid = (part.strip() for part in line.partition(","))
        if pids is not None and pid.isdecimal():
            pids.setdefault(uuid, []).append(int(pid))
    found = []
    for line in text.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == len(fields):
            found.append(_gpu(dict(zip(fields, values, strict=True)), pids))
    return tuple(found)


def _gpu(values: Mapping[str, str], pids: Mapping[str, Sequence[int]] | None) -> GpuFacts:
    reasons = next((values[name] for name in _REASONS if name in values), None)
    used, total = (_number(values.get(name)) for name in ("memory.used", "memory.total"))
    return GpuFacts(
        index=_number(values["index"]) or 0,
        name=values["name"],
        uuid=values["uuid"],
        uncorrected_errors=_number(values.get(_ERRORS)),
        throttle_mask=_number(reasons),
        temperature_c=_number(values.get("temperature.gpu")),
        used_bytes=None if used is None else used * _MIB,
        total_bytes=None if total is None else total * _MIB,
        pids=None if pids is None else tuple(pids.get(values["uuid"], ())),
    )


def _number(text: str | None) -> int | None:
    try:
        return int(text or "", 0)
    except ValueError:
        return None  # [N/A], [Not Supported], [Insufficient Permissions]


def _query(what: str, fields: Sequence[str]) -> tuple[str, ...]:
    return (
        "nvidia-smi",
        f"--query-{what}={','.join(fields)}",
        "--format=csv,noheader,nounits",
    )


def _run(words: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _is_there() -> bool:
    from shutil import which

    return which("nvidia-smi") is not None
