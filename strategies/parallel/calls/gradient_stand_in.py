"""What a loop finds in `.grad` where there is no gradient any more.

DeepSpeed takes each gradient out of `.grad` in the backward, as exact sums do; a step's update
drops it. Clipping by `clip_grad_norm_`, or any other use of gradients in the loop, would find
nothing to do then, and say nothing. It finds a tensor that knows its shape, and refuses to be
computed with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...errors import ConfigError


class GradientStandIn(torch.Tensor):
    """Stands for a gradient; without memory."""

    _refuse: Callable[[], None]

    def __new__(cls, own: torch.Tensor, shape: torch.Size, refuse: Callable[[], None]) -> Any:
        """Stand for a gradient.

        Args:
            own: the parameter.
            shape: of the whole.
            refuse: raises, where the gradient is used.
        """
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=own.dtype, device=own.device
        )
        made._refuse = refuse
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Refuse whatever is computed with it."""
        found = torch.utils._pytree.tree_leaves((args, kwargs))
        next(one for one in found if isinstance(one, GradientStandIn))._refuse()
        raise AssertionError("a stand-in that refuses returned")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """Return what it stands for."""
        return f"gradient of shape {tuple(self.shape)}, no longer here"

    def __reduce_ex__(self, _: Any) -> Any:
        """Refuse to be copied or saved."""
        self._refuse()


def refuse_gradient(name: str, lost: str) -> None:
    """Refuse to give a gradient.

    Args:
        name: of the parameter.
        lost: where it is, as the end of "the gradient, which ...".

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"the script uses the gradient of {name}, which {lost}: clipping or changing gradients "
        "there would have no effect. To clip them pass run.prepare(max_grad_norm=...). Other "
        "changes of gradients belong in the step of the optimizer, which gets the mean over all "
        "ranks."
    )
