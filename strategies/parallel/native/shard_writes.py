"""What a script does to weights in shards that would be lost: hooks on gradients, and writes.

fully_shard puts other tensors in the place of the parameters that the model was built with, and
gathers them anew for each forward. A hook on the gradient of such a parameter is never called; what
a forward writes to a gathered weight is freed with it; and `.data = ...` on a shard changes nothing
(read and tried in torch 2.13). Each is refused where it is done, or before the first backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils.weak import WeakIdKeyDictionary

from ...errors import ConfigError
from ...torch_internals import fsdp_parameters, unsharded
from ..state.optimizer_state import flat
from .rows import shard_range

COMPARED = 3
"""Forwards of each block, of every start, in which values are compared: what is written by `.data`
counts no change, and whoever writes so does it in every forward."""

_shards: Any = WeakIdKeyDictionary()
"""Names of the parameters in shards, for `.data = ...`, which belongs to torch's class."""


def refuse_gradient_hooks(named: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuse hooks on gradients, which would not be called. No collective.

    Raises:
        ConfigError: naming the parameter.
    """
    for name, one in named:
        if one._backward_hooks or one._post_accumulate_grad_hooks:
            raise ConfigError(
                f"{name} has a hook on its gradient (register_hook or "
                "register_post_accumulate_grad_hook), and strategy=fsdp computes gradients of "
                "other tensors, gathered from shards: it would not be called. Change gradients in "
                "the step of the optimizer, which gets the mean over all ranks, or in the forward, "
                "by a torch.autograd.Function; or use --strategy ddp (single on one rank)."
            )


class GatheredWeights:
    """Looks whether a forward leaves the weights that were gathered for it as they were."""

    def __init__(self, root: nn.Module, *, is_compiled: bool) -> None:
        """Take a model whose blocks, and itself, are sharded.

        Args:
            root: the model.
            is_compiled: whether torch.compile compiles blocks: not what looks at them.
        """
        names = {id(parameter): name for name, parameter in root.named_parameters()}
        for module in root.modules():
            if isinstance(module, FSDPModule):
                watched = _Gathered(names, fsdp_parameters(module))
                begin, end = watched.begin, watched.end
                if is_compiled:
                    begin, end = map(torch.compiler.disable, (begin, end))
                module.register_forward_pre_hook(begin)
                # Before torch's own, which frees what was gathered.
                module.register_forward_hook(end, prepend=True)
                vars(module)["_relaunch_gathered"] = watched
        for parameter in root.parameters():
            if isinstance(parameter, DTensor):
                _shards[parameter] = names[id(parameter)]
        DTensor.data = property(_get_data, _set_data)  # type: ignore[assignment]


def within(module: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function as if it were the forward of a sharded module, and look as after that."""
    watched: _Gathered = module._relaunch_gathered
    watched.begin()
    found = function(*args, **kwargs)
    watched.end()
    return found


class _Gathered:
    """The parameters that fully_shard gathers together."""

    def __init__(self, names: dict[int, str], accounts: list[Any]) -> None:
        self._named = [(names[id(one.sharded_param)], one) for one in accounts]
        self._versions: list[int] = []
        self._num_compared = 0

    def begin(self, *_: Any) -> None:
        self._versions = [_version(one) for _, one in self._named]

    def end(self, *_: Any) -> None:
        for (name, one), before in zip(self._named, self._versions, strict=True):
            if before >= 0 and _version(one) != before:
                _refuse_write(name)
        if self._num_compared < COMPARED:
            self._num_compared += 1
            for name, one in self._named:
                if not _holds_its_shard(one):
                    _refuse_write(name)


def _version(account: Any) -> int:
    whole = unsharded(account)
    return -1 if whole is None else whole._version


def _holds_its_shard(account: Any) -> bool:
    """Return whether this rank's rows of what was gathered are those of its shard."""
    whole, shard = unsharded(account), account.sharded_param
    if whole is None or whole.untyped_storage().nbytes() == 0:
        return True  # it is not gathered now
    start, end = shard_range(shard)
    gathered = flat(whole.detach())[start:end]
    own = flat(shard.detach().to_local()).to(gathered)
    return bool(((gathered == own) | (own != own)).all())


def _refuse_write(name: str) -> None:
    raise ConfigError(
        f"{name} was written to in the model's forward, and strategy=fsdp gathers weights anew for "
        "each forward: what was written would be lost. Compute with a value that is made of it, "
        "such as F.normalize(self.weight); nn.Embedding(max_norm=...) writes too. Or use "
        "--strategy ddp (single on one rank)."
    )


_torchs: Any = torch.Tensor.data


def _get_data(self: DTensor) -> Any:
    return _torchs.__get__(self)


def _set_data(self: DTensor, value: torch.Tensor) -> None:
    if (name := _shards.get(self)) is not None and value is not self:
        raise ConfigError(
            f"{name}.data was set, and under strategy=fsdp, where weights are in shards, that has "
            "no effect. Write in place, within torch.no_grad(), as in weight.clamp_(-1, 1) or "
            "weight.copy_(value)."
        )
    _torchs.__set__(self, value)
