"""torch's fully_shard: parameters, gradients and optimizer state in shards of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from checkpointing import Fragment, TensorSpec

from ..errors import ConfigError
from .protocol import Scalars, TensorSource
from .torch_engine import TorchEngine, load_buffers
from .torch_state import copy_flat, create_state, flat, state_spec, tensor_state


class FSDP(TorchEngine):
    """Sharded by block: the repeated modules each, and the rest with the root."""

    name = "fsdp"
    _is_sharded = True

    def _spread(self, model: nn.Module) -> nn.Module:
        mesh = init_device_mesh(self.ranks.device.type, (self.ranks.world_size,))
        precision = self.precision
        policy = MixedPrecisionPolicy(
            param_dtype=precision.compute_dtype if precision.is_mixed else None,
            reduce_dtype=precision.reduce_dtype if precision.is_mixed else None,
            output_dtype=precision.output_dtype if precision.is_mixed else None,
        )
        for block in repeated_blocks(model):
            # A block has its outputs cast by the root's policy only: inside, activations stay low.
            fully_shard(block, mesh=mesh, mp_policy=_without_output(policy))
        self._root = fully_shard(model, mesh=mesh, mp_policy=policy)
        self._verify(model)
        return model

    def _verify(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if not (isinstance(parameter, DTensor) and parameter.placements == (Shard(0),)):
                raise ConfigError(
                    f"strategy=fsdp: parameter {name} was not sharded by rows but is "
                    f"{type(parameter).__name__}. torch {torch.__version__} is not supported."
                )

    def micro_step(self, *, is_last: bool) -> None:
        """Reduce in every backward: kept unsharded until the last, gradients would need the memory
        that sharding saves.
        """

    def leaves(self) -> Mapping[int, str]:
        """Return the gathered parameters, which are other tensors than the shards."""
        return dict(_gathered(self._model, self._named))

    def _local_grads(self) -> list[torch.Tensor]:
        return [_local(p.grad) for _, p in self._named if p.grad is not None]

    def fragments(self, *, weights_only: bool) -> list[Fragment]:
        """Return the rows of every parameter that this rank holds."""
        self._reshard()
        found: list[Fragment] = []
        for name, parameter in self._model.named_parameters():
            start, end = shard_range(parameter)
            if start == end:
                continue
            spec = self.catalogue.frozen.get(name) or self.catalogue.trainable[name]
            found.append(_fragment(spec, start, end, parameter))
            if weights_only or name in self.catalogue.frozen:
                continue
            state = tensor_state(self._optimizer, parameter, name)
            found += [
                _fragment(state_spec(spec, key, tensor.dtype), start, end, tensor)
                for key, tensor in sorted(state.items())
            ]
        return found + self._buffer_fragments()

    def load(
        self, source: TensorSource, keys: Mapping[str, Sequence[str]], scalars: Scalars
    ) -> None:
        """Read this rank's rows."""
        self._reshard()
        for name, parameter in self._model.named_parameters():
            start, end = shard_range(parameter)
            spec = self.catalogue.frozen.get(name) or self.catalogue.trainable[name]
            copy_flat(_local(parameter), source.read(name, spec.key, start, end))
            if name in self.catalogue.frozen or name not in keys:
                continue
            created = create_state(self._optimizer, parameter, keys[name], scalars.get(name, {}))
            for key, tensor in created.items():
                copy_flat(_local(tensor), source.read(name, key, start, end))
        load_buffers(self._model, self.catalogue, source)

    def _reshard(self) -> None:
        # The root stays gathered after a forward without backward, such as an evaluation's.
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def repeated_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of the model's module lists that can be sharded on their own.

    A member is left to the root when it shares a parameter with a module outside of it, because
    fully_shard needs a tied parameter to have one owner.
    """
    uses = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    for module in model.modules():
        if not isinstance(module, nn.ModuleList):
            continue
        for block in module:
            inside = Counter(id(p) for m in block.modules() for p in m.parameters(recurse=False))
            if inside and all(uses[key] == count for key, count in inside.items()):
                yield block


def shard_range(parameter: torch.Tensor) -> tuple[int, int]:
    """Return the elements [start, end) of the flattened parameter in this rank's shard.

    Uneven and empty shards occur: a tensor of five rows on four ranks has one.
    """
    assert isinstance(parameter, DTensor)
    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    row = parameter.numel() // max(1, parameter.shape[0])
    start = min(offset[0] * row, parameter.numel())
    return start, start + shape[0] * row


def _gathered(
    model: nn.Module, named: Sequence[tuple[str, nn.Parameter]]
) -> Iterator[tuple[int, str]]:
    """Yield (id, name) of the tensors that stand in for trainable parameters while they compute.

    Read in torch 2.13 (_fully_shard/_fsdp_param.py). A block that no forward has called yet has
    none: its shards stand there, and no loss depends on them.
    """
    name_of = {id(parameter): name for name, parameter in named}
    for module in model.modules():
        if not isinstance(module, FSDPModule):
            continue
        for group in module._get_fsdp_state()._fsdp_param_groups:
            for one in group.fsdp_params:
                name = name_of.get(id(one.sharded_param))
                if name is not None:
                    yield id(getattr(one, "_unsharded_param", one.sharded_param)), name


def _fragment(spec: TensorSpec, start: int, end: int, tensor: torch.Tensor) -> Fragment:
    return Fragment(spec=spec, start=start, end=end, data=flat(_local(tensor)))


def _local(tensor: object) -> torch.Tensor:
    assert isinstance(tensor, DTensor)
    local: torch.Tensor = tensor.to_local()
    return local.detach()


def _without_output(policy: MixedPrecisionPolicy) -> MixedPrecisionPolicy:
    return MixedPrecisionPolicy(param_dtype=policy.param_dtype, reduce_dtype=policy.reduce_dtype)
