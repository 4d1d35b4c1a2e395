"""How the data of a run is read, as a script asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigError
from .reading.samples import Collate


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What a DataLoader's user knows as num_workers, collate_fn and so on."""

    workers: int = 0
    """Loader processes of each rank; 0: the rank reads by itself."""
    collate: Collate | None = None
    """Makes a batch of a list of samples; None: torch's default_collate."""
    worker_init: Callable[[int], object] | None = None
    """Called in each worker with its number, before it reads."""
    prefetch: int | None = None
    """Batches that each worker reads ahead; None: torch's 2."""
    persistent: bool = False
    """Whether the workers of an evaluation live on until the next of the same data set. Those of
    the training data do in any case."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"workers={self.workers} must not be negative.")
        if self.prefetch is not None and self.prefetch < 1:
            raise ConfigError(f"prefetch={self.prefetch} must be at least 1, or None.")
        for name in ("collate", "worker_init"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ConfigError(
                    f"{name}={value!r} is of type {type(value).__name__}; it must be a function."
                )
        asked = {
            "worker_init": self.worker_init is not None,
            "prefetch": self.prefetch is not None,
            "persistent": self.persistent,
        }
        useless = [f"{name}=" for name, is_given in asked.items() if is_given]
        if useless and self.workers == 0:
            raise ConfigError(
                f"{' and '.join(useless)} {'is' if len(useless) == 1 else 'are'} for loader "
                "processes, and workers=0 has none. Pass workers= too, or leave it out."
            )
