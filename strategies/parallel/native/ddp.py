"""torch's DistributedDataParallel: whole replicas, gradients summed in buckets."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import DebugLevel, get_debug_level  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from ...errors import ConfigError
from ..calls.autocast import Autocast
from ..gradients.bucket_order import orders_of
from ..gradients.grad_norm import squares_of_replicas
from .single import Replicated

# Replicas start equal and are updated equally; a broadcast of buffers at every forward would only
# hide a rank that has gone astray. torch 2.13 gave the argument another name.
_NO_BUFFER_SYNC: dict[str, Any] = {
    name: False
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel).parameters
}
if len(_NO_BUFFER_SYNC) > 1:
    del _NO_BUFFER_SYNC["broadcast_buffers"]


def _start_equal_in_bytes(model: nn.Module) -> None:
    """Broadcast what is in 8-bit floats, of which gloo knows nothing; DDP then leaves it out.

    Called on every rank.
    """
    kept = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    small = {n: t for n, t in kept.items() if t.dtype.is_floating_point and t.dtype.itemsize == 1}
    for tensor in small.values():
        dist.broadcast(tensor.detach().view(torch.uint8), src=0)
    if small:
        leave_out: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        leave_out(model, list(small))


def refuse_detail_on_gloo() -> None:
    """Refuse a debug level that DistributedDataParallel does not support on gloo.

    Raises:
        ConfigError: torch checks every collective, on gloo.
    """
    if get_debug_level() == DebugLevel.DETAIL and dist.get_backend() == "gloo":
        raise ConfigError(
            f"TORCH_DISTRIBUTED_DEBUG=DETAIL cannot be used with DistributedDataParallel of torch "
            f"{torch.__version__} on gloo. Set it to INFO, or pass --strategy fsdp."
        )


class DDP(Replicated):
    """Replicas on every rank; gradients are summed once a step, with the last micro-batch."""

    name = "ddp"

    def _spread(self, model: nn.Module) -> nn.Module:
        device = self.ranks.device
        self._relay = Autocast(model, self.precision, device)
        if self.options.exact:
            return self._relay  # gradients are summed by `GradientSums`
        refuse_detail_on_gloo()
        _start_equal_in_bytes(self._relay)
        self._ddp = DistributedDataParallel(
            self._relay,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **_NO_BUFFER_SYNC,
        )
        self.bucket_orders = orders_of([self._ddp], self.ranks.world_size)
        return self._ddp

    def _begin_micro_step(self, *, is_last: bool) -> None:
        """Sum gradients over the ranks in the last backward only."""
        if not self.options.exact:
            self._ddp.require_backward_grad_sync = is_last

    def _squares(self, grads: list[torch.Tensor]) -> float:
        if self.options.exact:
            return super()._squares(grads)
        return squares_of_replicas(grads, self.ranks, self.meanwhile)
