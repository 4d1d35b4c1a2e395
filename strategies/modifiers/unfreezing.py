"""Parameters that begin to be trained at a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from ..errors import ConfigError


class Unfreezing:
    """Which parameters are held still at which step: a pure function of the step."""

    def __init__(
        self, asked: Mapping[str, int], names: Iterable[str], frozen: Iterable[str] = ()
    ) -> None:
        """Take patterns with the optimizer step at which they begin to be trained.

        Args:
            asked: such as {"backbone.*": 500}; the latest of several that fit a name holds.
            names: of the model's trainable parameters.
            frozen: of its other parameters, with requires_grad_(False).

        Raises:
            ConfigError: a pattern that fits nothing, a step below 1, or nothing left to train.
        """
        names, frozen = list(names), list(frozen)
        self._since: dict[str, int] = {}
        self.notes: list[str] = []
        """What the run should say of patterns that also fit what stays frozen."""
        for pattern, step in asked.items():
            found = [name for name in names if fnmatchcase(name, pattern)]
            still = [name for name in frozen if fnmatchcase(name, pattern)]
            if still:
                names_of = ", ".join(still[:3]) + ", ..." * (len(still) > 3)
                said = (
                    f'unfreeze={{"{pattern}": {step}}} fits {len(still)} parameters that are '
                    f"frozen by requires_grad_(False) ({names_of}), and these are never trained. "
                    "Leave them trainable in the model's function: unfreeze= freezes parameters "
                    "until their step"
                )
                if not found:
                    raise ConfigError(f"{said}.")
                self.notes.append(said)
            if not found or step < 1:
                raise ConfigError(
                    f'unfreeze={{"{pattern}": {step}}} fits {len(found)} of {len(names)} trainable '
                    f"parameters ({', '.join(names[:3])}, ...); it must fit some, at a step >= 1."
                )
            for name in found:
                self._since[name] = max(step, self._since.get(name, 0))
        if names and len(self._since) == len(names):
            raise ConfigError(
                f"unfreeze={dict(asked)} leaves nothing to train before step "
                f"{min(self._since.values())}. Leave some parameters out of it."
            )

    def since(self, name: str) -> int:
        """Return the optimizer step (0-based) from which a parameter is trained."""
        return self._since.get(name, 0)

    def held_at(self, step: int) -> frozenset[str]:
        """Return the names of the parameters that optimizer step `step` (0-based) leaves alone."""
        return frozenset(name for name, since in self._since.items() if step < since)
