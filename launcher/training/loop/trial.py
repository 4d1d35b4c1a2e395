"""A trial of a script: a few steps, each saved, and notes on every micro-batch.

Nothing here is used in an ordinary run. What is noted takes no collective: each rank writes a file
of its own, and `relaunch verify` compares them after the run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from strategies.data.reading.first_samples import digest
from strategies.data.reading.samples import IndexList, SampleReader
from strategies.data.seeding import kept_streams, training_samples

from ...contract.trial import LONGEST_KEPT, TrialSettings
from ..recipe.recipe import Recipe

_NUM_PROBED = 3
"""Samples that are read twice before the first step."""
_WRITES = frozenset("wax+")


def for_trial(recipe: Recipe, trial: TrialSettings | None) -> Recipe:
    """Return the recipe of a trial: what is asked of the data and the model stays as it is."""
    if trial is None:
        return recipe
    if trial.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    if trial.save_every_steps is None:
        return replace(recipe, log_every=1)
    every = f"{trial.save_every_steps} steps"
    return replace(recipe, log_every=1, save_every=every, keep=LONGEST_KEPT, keep_every=None)


class Trial:
    """What one rank notes of its trial."""

    def __init__(self, settings: TrialSettings, rank: int) -> None:
        self.settings = settings
        self._rank = rank
        self._path = settings.trace_file(rank)
        self._step = 0
        self._index = 0
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def is_over(self, step: int) -> bool:
        """Return whether so many completed steps are enough; the same on every rank."""
        return step >= self.settings.steps

    def before_step(self, step: int) -> None:
        """Wait as is asked; send the notice that is asked for before this step, on one rank."""
        self._step = step
        time.sleep(self.settings.pace_s)
        if self.settings.notice_at != step or self._rank:
            return
        for worker in multiprocessing.active_children():
            with suppress(OSError):
                os.kill(worker.pid or 0, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    def model(self, module: torch.nn.Module) -> None:
        """Note the weights before the first step, where this rank holds the whole of them."""
        tensors = [*module.named_parameters(), *module.named_buffers()]
        if self._path is not None and not any(_is_part(one) for _, one in tensors):
            values = [one.detach() for _, one in tensors]
            self._note({"weights": digest(values)})

    def data(self, dataset: Any, seed: int) -> None:
        """Read a few samples twice, each with its own random numbers, and note what they are."""
        if self._path is None:
            return
        indices = list(range(min(_NUM_PROBED, len(dataset))))
        asked = IndexList(indices=indices, stream=training_samples(seed, 0))
        reader = SampleReader(dataset, collate=list)
        with kept_streams():
            first, second = (digest(reader.__getitems__(asked)) for _ in range(2))
        self._note({"samples": len(dataset), "first": first, "again": second})

    def batch(self, index: int, batch: Any, *, is_padding: bool) -> None:
        """Note what a micro-batch holds."""
        self._index = index
        if self._path is not None and not is_padding:
            self._note({"step": self._step, "micro_batch": index, "batch": digest(batch)})

    def loss(self, loss: torch.Tensor, count: Any) -> None:
        """Note what came of it."""
        if self._path is not None:
            values = {"loss": float(loss.detach()), "count": float(count)}
            self._note({"step": self._step, "micro_batch": self._index, **values})

    def _note(self, record: Mapping[str, Any]) -> None:
        assert self._path is not None
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"rank": self._rank, **record}) + "\n")

    def watch_files(self) -> None:
        """Note the files that the script opens to write, until this process ends."""
        if self._path is None:
            return
        own, written = str(self._path.parent), set()

        def note(path: object) -> None:
            if not isinstance(path, str | os.PathLike):
                return
            name = os.path.abspath(os.fspath(path)) if isinstance(os.fspath(path), str) else ""
            if name and name not in written and not _is_ours(name, own):
                written.add(name)
                self._note({"wrote": name})

        def look(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and isinstance(arguments[1], str) and _WRITES & {*arguments[1]}:
                note(arguments[0])

        sys.addaudithook(look)
        save = torch.save

        def saved(obj: object, f: Any, *args: Any, **options: Any) -> None:
            note(f)  # torch opens the file itself, beside Python's own functions
            save(obj, f, *args, **options)

        torch.save = saved


def _is_ours(name: str, own: str) -> bool:
    launchers = f"{tempfile.gettempdir()}/relaunch-"
    caches = ("/dev/", "/proc/", "__pycache__", "/.cache/", "/torchinductor")
    return name.startswith((own, launchers)) or any(one in name for one in caches)


def _is_part(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "device_mesh") or hasattr(tensor, "ds_id") or tensor.is_meta
