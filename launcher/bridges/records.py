"""The run folder of a framework's training: what `relaunch report` and `relaunch watch` read.

On the coordinator alone; the other ranks' copies write nothing.
"""

from __future__ import annotations

import atexit
import math
import platform
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from strategies import ConfigError
from strategies.collectives.late_number import LateNumbers

from ..contract.environment import RankEnvironment
from ..contract.masking import mask_description, secrets_of
from ..run_folder.attempt_number import next_number
from ..run_folder.folder import RunFolder
from ..run_folder.lock import FolderLock
from .rank_notices import RankNotices

_VERSIONS_OF = ("relaunch", "torch", "accelerate", "transformers", "trl", "lightning")
_MEASURED = ("eval", "val", "test")
"""Prefixes with which frameworks name what was measured in an evaluation."""


class BridgeRecords:
    """Writes run.json, events.jsonl and metrics.jsonl of one start."""

    def __init__(self, rank: RankNotices, path: Path) -> None:
        self._rank = rank
        self._path = path
        self._folder: RunFolder | None = None
        self._attempt = rank.environment.attempt
        self._late: tuple[dict[str, Any], dict[str, Any]] | None = None
        """What is to be written once the device has computed it: of when, and the values."""

    def begin(
        self,
        *,
        step: int,
        strategy: str,
        precision: str,
        device: str,
        is_resumed: bool,
        environ: Mapping[str, str],
    ) -> None:
        """Take the run folder, and record the start. Called on every rank.

        Ends the rank with a sentence where another run is in the folder, or it cannot be written.

        Args:
            step: optimizer steps that are done.
            strategy: such as "ddp".
            precision: such as "bf16".
            device: the type of this rank's.
            is_resumed: the run has not begun now.
            environ: in which secrets may be that are in the arguments, too.
        """
        if not self._rank.is_coordinator:
            return
        folder = self._take_folder()
        self._attempt = max(next_number(folder.path), self._attempt)
        description = {
            "script": str(Path(sys.argv[0]).resolve()),
            "arguments": sys.argv[1:],
            "attempt": self._attempt,
            "checkpoints": None,
            "strategy": strategy,
            "precision": precision,
            "world_size": self._rank.environment.world_size,
            "device": device,
            "versions": {"python": platform.python_version(), **_versions()},
        }
        folder.update_run(mask_description(description, secrets_of(environ)))
        lost = folder.forget_metrics_after(step)
        folder.event(
            "start",
            attempt=self._attempt,
            step=step,
            strategy=strategy,
            world_size=self._rank.environment.world_size,
            precision=precision,
            device=device,
            resumed=is_resumed,
            lost_steps=lost.steps,
            lost_s=round(lost.seconds, 3),
        )
        atexit.register(folder.close)
        self._folder = folder

    def _take_folder(self) -> RunFolder:
        folder = RunFolder(self._path)
        folder.warn = self._rank.console.warn
        try:
            folder.create()
            FolderLock.take(folder.path, warn=folder.warn)
        except (ConfigError, OSError) as error:
            self._rank.refuse(str(error))
        return folder

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Record what a framework has logged of a step.

        Numbers that a GPU still computes are written with the next call: the host would wait for
        the whole step.

        Args:
            step: optimizer steps that are done.
            values: numbers, or tensors of one.
        """
        if self._folder is None:
            return
        self._write_late()
        when = {"step": step, "attempt": self._attempt, "time": round(time.time(), 3)}
        self._late = when, {name: _begun(value) for name, value in values.items()}
        if not any(map(_is_on_device, values.values())):
            self._write_late()

    def _write_late(self) -> None:
        if self._folder is None or self._late is None:
            return
        (when, values), self._late = self._late, None
        record = metrics_record({name: _finished(value) for name, value in values.items()})
        if record:
            self._folder.metrics({**when, **record})

    def saved(self, step: int, *, size_bytes: int, seconds: float) -> None:
        """Record a checkpoint, for which the training has waited."""
        self._event(
            "saved",
            step=step,
            size_bytes=size_bytes,
            seconds=round(seconds, 3),
            stall_s=round(seconds, 3),
        )

    def best(self, step: int, name: str, value: float) -> None:
        """Record an evaluation that was the best so far."""
        self._event("best", step=step, monitor=measured_name(name), value=value)

    def noted(self, sentence: str) -> None:
        """Record and print a sentence about this start."""
        self._event("note", sentence=sentence)
        self._rank.console.warn(sentence)

    def ended(self, step: int, ending: str, reason: str, newest_step: int | None) -> None:
        """Record why the training ended.

        Args:
            step: optimizer steps that are done.
            ending: "preempted", "early stop" or "completed".
            reason: in a phrase.
            newest_step: of the newest checkpoint; None: there is none.
        """
        self._write_late()
        self._event(
            "end",
            attempt=self._attempt,
            step=step,
            ending=ending,
            reason=reason,
            newest_step=newest_step,
        )

    def _event(self, kind: str, **details: Any) -> None:
        if self._folder is not None:
            self._folder.event(kind, **details)


def usual_run_dir(environment: RankEnvironment) -> Path:
    """Return the run folder of a framework that has none: where `Run` would keep its own."""
    return (environment.start_dir or Path()) / "runs" / Path(sys.argv[0]).stem


def metrics_record(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a framework's log under the names of metrics.jsonl; pure.

    What sums up a whole training ("train_runtime") and what is no finite number is left out.
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if math.isfinite(value) and not name.startswith("train_"):
            found[measured_name(name)] = value
    return {"lr" if name == "learning_rate" else name: value for name, value in found.items()}


def _is_on_device(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_cuda


def _begun(value: Any) -> Any:
    """Return a number of the host's, or how to read that of a tensor."""
    is_one = isinstance(value, torch.Tensor) and value.numel() == 1
    return LateNumbers(value.reshape(())) if is_one else value


def _finished(value: Any) -> Any:
    if isinstance(value, LateNumbers):
        return value.read()
    return value.item() if hasattr(value, "item") and not isinstance(value, torch.Tensor) else value


def measured_name(name: str) -> str:
    """Return "eval/loss" for "eval_loss"; another name as it is. Pure."""
    for prefix in _MEASURED:
        if name.startswith(f"{prefix}_"):
            return f"{prefix}/{name.removeprefix(f'{prefix}_')}"
    return name


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
