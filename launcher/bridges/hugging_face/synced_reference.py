"""The reference model of a trainer of trl's that follows the trained one (`sync_ref_model`).

Trainer's checkpoints do not hold it: a resumed run would compare with the model of the begin.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

_FILE = "relaunch_ref_model.safetensors"


class SyncedReference:
    """Of one Trainer on one rank; without such a model nothing is done. No collective."""

    def __init__(self, trainer: Any, *, writes: bool) -> None:
        is_synced = bool(getattr(trainer.args, "sync_ref_model", False))
        self._model = getattr(trainer, "ref_model", None) if is_synced else None
        self._writes = writes

    def write(self, folder: Path) -> None:
        """Write it into a checkpoint, on the rank that writes.

        Raises:
            OSError: from the disk.
        """
        if self._model is None or not self._writes:
            return
        held = self._model.state_dict()
        save_file({name: one.detach().cpu().clone() for name, one in held.items()}, folder / _FILE)

    def restore(self, checkpoint: Path) -> None:
        """Put back what a checkpoint holds of it."""
        if self._model is not None and (checkpoint / _FILE).is_file():
            self._model.load_state_dict(load_file(checkpoint / _FILE))
