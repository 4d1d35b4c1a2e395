"""Hugging Face Accelerate: the user's own `Accelerator` wraps, computes, clips and steps.

Used of it are prepare, backward, clip_grad_norm_ and its autocast; with exact sums, which are not
its, prepare_model, backward and autocast. Its loader, scheduler and
save_state are not: data order, schedule and checkpoints are the same as under every strategy.

An Accelerator may quietly do something else than it was asked for (read in accelerate 1.15,
state.py): on CPUs a plugin for FSDP or DeepSpeed is dropped, and without `cpu=True` every rank
trains alone. So what it was asked for and what it built are compared, and refused otherwise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ...collectives.process_group import Ranks
from ...errors import ConfigError
from ...precision import Precision
from ..calls.autocast import Relay
from ..gradients.bucket_order import orders_of
from ..strategy import Blueprint, StepOutcome
from .ddp import refuse_detail_on_gloo
from .single import Replicated

_PLUGIN_MARKS = {
    "ACCELERATE_USE_FSDP": ("FSDP", "fsdp"),
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", "zero1, zero2 or zero3"),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", "fsdp"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("a ParallelismConfig", "fsdp"),
}
"""Where an Accelerator notes in the environment what it was asked for, whatever it then built."""
_PRECISION_NAMES = {"fp32": "no", "bf16": "bf16"}
"""Accelerate's words for the precisions that need no loss scale."""


class Accelerate(Replicated):
    """Replicas whose gradients an Accelerator sums; the whole state is on every rank."""

    name = "accelerate"
    forward_communicates = True

    def __init__(self, blueprint: Blueprint) -> None:
        if blueprint.accelerator is None:
            raise ConfigError(
                "strategy=accelerate needs an Accelerator. Pass one to run.prepare: "
                "accelerator=Accelerator(), or Accelerator(cpu=True) on CPUs."
            )
        self._accelerator = blueprint.accelerator
        refuse_unsuited(self._accelerator, blueprint.ranks, blueprint.precision, environ=os.environ)
        super().__init__(blueprint)
        self._stepper = self._accelerator.prepare(self._optimizer)

    def _spread(self, model: nn.Module) -> nn.Module:
        self._relay = Relay(model)
        self._ddp: DistributedDataParallel | None = None
        if self.options.exact:
            refuse_other_sums(self._accelerator)
            # As for an evaluation: its precision without its sums, which `GradientSums` takes.
            whole: nn.Module = self._accelerator.prepare_model(self._relay, evaluation_mode=True)
            return whole
        refuse_detail_on_gloo()
        prepared: nn.Module = self._accelerator.prepare(self._relay)
        self._ddp = refuse_unlike(prepared, self._accelerator, self.ranks)
        self.bucket_orders = orders_of([self._ddp], self.ranks.world_size)
        return prepared

    def _begin_micro_step(self, *, is_last: bool) -> None:
        """Let the Accelerator sum gradients over the ranks in the last backward only."""
        self._accelerator.sync_gradients = is_last
        if self._ddp is not None:
            self._ddp.require_backward_grad_sync = is_last

    def _accumulate(self, loss: torch.Tensor) -> None:
        self._accelerator.backward(loss)

    def _update(self) -> None:
        self._stepper.step()

    def _apply(self, grads: list[torch.Tensor], divisor: float) -> StepOutcome:
        """Divide, clip by the Accelerator, and update, unless a gradient is not finite."""
        if self.options.exact:
            return super()._apply(grads, divisor)  # its norm would depend on the order
        torch._foreach_mul_(grads, 1.0 / divisor)
        parameters = [p for _, p in self._named if p.grad is not None]
        max_norm = math.inf if self.max_grad_norm is None else self.max_grad_norm
        norm = float(self._accelerator.clip_grad_norm_(parameters, max_norm))
        if math.isfinite(norm):
            self._update()
        return StepOutcome(grad_norm=norm, applied=math.isfinite(norm))


def refuse_unsuited(
    accelerator: Any, ranks: Ranks, precision: Precision, *, environ: Mapping[str, str]
) -> None:
    """Compare what the Accelerator is with the run, before anything is built from it.

    Raises:
        ConfigError: it sees other ranks, another device or precision, or was asked for a plugin.
    """
    for mark, (plugin, ours) in _PLUGIN_MARKS.items():
        if environ.get(mark, "false").lower() == "true":
            raise ConfigError(
                f"strategy=accelerate: this Accelerator was asked for {plugin} and became "
                f"{_kind(accelerator)} on {accelerator.num_processes} process(es). relaunch takes "
                f"an Accelerator for replicas only; leave the plugin out, or use --strategy {ours}."
            )
    if (accelerator.num_processes, accelerator.process_index) != (ranks.world_size, ranks.rank):
        raise ConfigError(
            f"strategy=accelerate: this Accelerator is process {accelerator.process_index} of "
            f"{accelerator.num_processes}, and the run's rank is {ranks.rank} of "
            f"{ranks.world_size}: each would train alone. Make it inside main(run); on CPUs as "
            "Accelerator(cpu=True)."
        )
    if accelerator.device.type != ranks.device.type:
        raise ConfigError(
            f"strategy=accelerate: this Accelerator computes on {accelerator.device.type}, and the "
            f"run on {ranks.device.type}. "
            f"Pass cpu={ranks.device.type == 'cpu'} to the Accelerator."
        )
    if precision.name not in _PRECISION_NAMES:
        raise ConfigError(
            f"strategy=accelerate cannot honour --precision {precision.name}: its loss scale would "
            "not be in the checkpoints. Use --precision bf16, or another --strategy."
        )
    if accelerator.mixed_precision != _PRECISION_NAMES[precision.name]:
        raise ConfigError(
            f'strategy=accelerate: this Accelerator has mixed_precision="'
            f'{accelerator.mixed_precision}", and the run --precision {precision.name}. Make it '
            f'with mixed_precision="{_PRECISION_NAMES[precision.name]}", or change --precision.'
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigError(
            "strategy=accelerate: this Accelerator has gradient_accumulation_steps="
            f"{accelerator.gradient_accumulation_steps}, and how much is accumulated follows from "
            "global_batch and micro_batch. Leave it at 1."
        )


def refuse_other_sums(accelerator: Any) -> None:
    """Refuse an Accelerator that was told how gradients are to be sent; exact sums are not.

    Raises:
        ConfigError: it has a communication hook.
    """
    hook = getattr(accelerator.ddp_handler, "comm_hook", None)
    if hook is not None and str(getattr(hook, "value", hook)) != "no":
        raise ConfigError(
            f"--exact sums gradients itself, in float64, and this Accelerator has comm_hook={hook} "
            "in its DistributedDataParallelKwargs. Leave one of them out."
        )


def refuse_unlike(
    prepared: nn.Module, accelerator: Any, ranks: Ranks
) -> DistributedDataParallel | None:
    """Compare what `prepare` built with what was asked for; return the replica's wrapper.

    Raises:
        ConfigError: several ranks whose gradients nobody sums, or a wrapper that is not known.
    """
    if ranks.world_size == 1 and not isinstance(prepared, DistributedDataParallel):
        return None
    if not isinstance(prepared, DistributedDataParallel):
        raise ConfigError(
            f"strategy=accelerate: on {ranks.world_size} ranks this Accelerator ("
            f"{_kind(accelerator)}) built a {type(prepared).__name__}, which does not sum "
            "gradients over the ranks. On CPUs make it with cpu=True, without a plugin."
        )
    return prepared


def _kind(accelerator: Any) -> str:
    kind = accelerator.distributed_type
    return str(getattr(kind, "value", kind))
