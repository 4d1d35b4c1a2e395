"""A DeepSpeed engine that the script has made with deepspeed.initialize."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...collectives.process_group import Ranks
from ...errors import INSTALL_TESTED, ConfigError
from ..state.optimizer_state import flat
from ..zero.frozen_parameters import FrozenParameters
from ..zero.internals import Stage3, Stage12, layout_of
from ..zero.zero import Zero, Zero1, Zero2, Zero3
from .adoption import adopt, live_catalogue, torch_optimizer


class _LiveZero(Zero):
    """The script's own engine; its masters and optimizer state are read as `Zero` reads its own."""

    def __init__(self, engine: Any, ranks: Ranks) -> None:
        """Find where the masters are. No collective.

        Raises:
            ConfigError: they are not where they are known to be.
        """
        import deepspeed

        version = str(deepspeed.__version__)
        self._engine, self._model = engine, engine.module
        self._layout = layout_of(engine.optimizer, version)
        adopt(self, torch_optimizer(engine.optimizer), self._layout.group_names(), ranks)
        trained = {name for group in self._group_names for name in group}
        self.catalogue = live_catalogue(
            self._model,
            trained,
            shape_of=lambda p: getattr(p, "ds_shape", p.shape),
            dtypes=dict.fromkeys(trained, torch.float32),
        )
        _check_masters(self._layout, self._model, version)
        own = dict(self._model.named_parameters())
        self._frozen = FrozenParameters(self._layout, self._model, self.catalogue, own)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the optimizer that the engine steps."""
        return self._optimizer.param_groups


class _LiveZero1(_LiveZero, Zero1): ...


class _LiveZero2(_LiveZero, Zero2): ...


class _LiveZero3(_LiveZero, Zero3): ...


_BY_STAGE: dict[int, type[_LiveZero]] = {1: _LiveZero1, 2: _LiveZero2, 3: _LiveZero3}


def is_engine(model: object) -> bool:
    """Whether it is a DeepSpeed engine; DeepSpeed is not imported for that."""
    return any(one.__name__ == "DeepSpeedEngine" for one in type(model).__mro__)


def live_zero(engine: Any, ranks: Ranks) -> Zero:
    """Return the engine as a strategy. No collective.

    Raises:
        ConfigError: it has no ZeRO stage, or is laid out otherwise than known.
    """
    stage = int(engine.zero_optimization_stage())
    if stage not in _BY_STAGE:
        raise ConfigError(
            f"the DeepSpeed engine has ZeRO stage {stage}, and known here are stages 1 to 3. Set "
            "zero_optimization.stage in its config, or use DistributedDataParallel."
        )
    return _BY_STAGE[stage](engine, ranks)


def _check_masters(layout: Stage12 | Stage3, model: nn.Module, version: str) -> None:
    """Prove that the pieces found are the masters of the weights that are computed with.

    Raises:
        ConfigError: they hold other values.
    """
    live = dict(model.named_parameters())
    for piece in layout.pieces():
        weights: Any = live[piece.fqn]
        held = weights.ds_tensor if isinstance(layout, Stage3) else weights
        start = 0 if isinstance(layout, Stage3) else piece.start
        own = flat(held)[start : start + piece.end - piece.start]
        if not torch.equal(piece.of(piece.buffer).to(own.dtype).cpu(), own.cpu()):
            raise ConfigError(
                f"DeepSpeed {version} lays out {piece.fqn} [{piece.start}, {piece.end}) "
                f"differently from what relaunch knows, so its state could not be saved "
                f"correctly. {INSTALL_TESTED}."
            )
