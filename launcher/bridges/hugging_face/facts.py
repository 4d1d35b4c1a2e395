"""What a checkpoint's seal says of the start that wrote it, and what the next start is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...training.own_loop.data.known_samples import known_samples, other_data_text
from .data_place import is_amid_generated, sampler_of
from .texts import AMID_GENERATED, DATA_ANEW, asked_of, changed_asked, changed_ranks_text


class StartFacts:
    """Of one Trainer's start. No collective."""

    def __init__(self, trainer: Any, world_size: int) -> None:
        self._trainer = trainer
        self._world_size = world_size
        self._samples = known_samples(trainer.train_dataset)

    def read(self) -> dict[str, Any]:
        """Return them, as JSON."""
        args, trainer = self._trainer.args, self._trainer
        accumulated = int(trainer._train_batch_size) * int(args.gradient_accumulation_steps)
        return {
            "world_size": self._world_size,
            "batch": accumulated * self._world_size,
            "sampler": sampler_of(trainer.callback_handler.train_dataloader),
            "asked": asked_of(args),
            "samples": self._samples,
        }

    def told(self, sealed: Mapping[str, Any]) -> list[str]:
        """Return what this start is told, which resumes from a checkpoint.

        Args:
            sealed: what its seal says; empty: it has none.
        """
        now, trainer = self.read(), self._trainer
        found = [
            changed_ranks_text(sealed, now, int(trainer.state.global_step)),
            other_data_text(sealed.get("samples", {}), now["samples"]),
            *changed_asked(sealed.get("asked", {}), now["asked"]),
            AMID_GENERATED if is_amid_generated(trainer) else None,
            DATA_ANEW if trainer.args.ignore_data_skip else None,
        ]
        return [text for text in found if text is not None]
