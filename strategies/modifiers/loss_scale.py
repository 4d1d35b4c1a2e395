"""Dynamic loss scaling as a pure state machine, one for all strategies.

The rule is that of Micikevicius et al., "Mixed Precision Training" (2018): halve after an
overflow, double after `growth_interval` clean steps in a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..precision import Precision

MIN_SCALE = 2.0**-14
MAX_SCALE = 2.0**24


@dataclass(frozen=True, kw_only=True)
class LossScale:
    """The scale and its counter; both are in every checkpoint."""

    scale: float = 1.0
    clean_steps: int = 0
    growth_interval: int = 2000
    dynamic: bool = False

    @classmethod
    def for_precision(cls, precision: Precision) -> LossScale:
        """Return the scale at the start of a run."""
        return cls.for_fp16() if precision.needs_loss_scaling else cls()

    @classmethod
    def for_fp16(cls) -> LossScale:
        """Start at 2**16, as torch and Apex do; see `for_sums`."""
        return cls(scale=2.0**16, dynamic=True)

    def for_sums(self, counted: float) -> LossScale:
        """Return the scale at the start of a run whose losses are sums over so many samples.

        Where it is dynamic: 2**16 is made for means, and the gradient of a sum is `counted` times
        as large. Rounded down to a power of two, so that scaling changes no digit.
        """
        if not self.dynamic or not counted > 1:
            return self
        scale = 2.0 ** math.floor(math.log2(self.scale / counted))
        return replace(self, scale=min(max(scale, MIN_SCALE), MAX_SCALE))

    def after(self, *, finite: bool) -> LossScale:
        """Return the state after a step whose gradients were finite on every rank, or not."""
        if not self.dynamic:
            return self
        if not finite:
            return replace(self, scale=max(self.scale / 2, MIN_SCALE), clean_steps=0)
        if self.clean_steps + 1 < self.growth_interval:
            return replace(self, clean_steps=self.clean_steps + 1)
        return replace(self, scale=min(self.scale * 2, MAX_SCALE), clean_steps=0)

    def to_json(self) -> dict[str, float | int]:
        """What a checkpoint keeps."""
        return {"scale": self.scale, "clean_steps": self.clean_steps}

    def restored(self, saved: dict[str, float | int]) -> LossScale:
        """Take over a saved state; a scale of 1 that was never dynamic does not overrule ours."""
        if not self.dynamic or saved["scale"] == 1.0:
            return self
        return replace(self, scale=float(saved["scale"]), clean_steps=int(saved["clean_steps"]))
