"""One step of a tiny model whose result is known, before the user's model is built.

A release of DeepSpeed that has all names may still compute something else: in one of them bf16
gradients are not summed over the ranks. Two micro-batches, the sum over them and over the ranks,
the division, the step and the gathering of the new weights take milliseconds here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ....collectives.process_group import Ranks
from ....errors import INSTALL_TESTED, ConfigError, first_line
from ....precision import Precision
from ...gradients.grad_norm import sum_over_ranks
from ..exact_sums import ExactSums
from ..internals import Stage3, Stage12, apply_step, layout_of

ELEMENTS = 24
LEARNING_RATE = 2.0**-8
_NAME = "weight"
_TOLERANCE = 1e-5
"""Relative; what is looked for is a lost rank, micro-batch or bit of bf16."""
_SMALL = 4096
"""Elements of DeepSpeed's buffers, which it would make for half a billion."""


def start() -> torch.Tensor:
    """Return the first weights: eighths below 3, exact in every precision."""
    return torch.arange(ELEMENTS, dtype=torch.float32) / 8


def gradient(micro_batch: int, rank: int) -> torch.Tensor:
    """Return the gradient of micro-batch 0 or 1 on a rank: whole numbers up to 256.

    Each is exact in bf16 and fp16, and their sum is not: it shows in what they were added.
    """
    if micro_batch == 0:
        return torch.full((ELEMENTS,), 256.0)
    return (torch.arange(ELEMENTS) % 4 + rank % 3 + 1).float()


def summed(world_size: int) -> torch.Tensor:
    """Return the sum over the micro-batches and the ranks."""
    return torch.stack([gradient(m, r) for m in (0, 1) for r in range(world_size)]).sum(0)


def stepped(world_size: int) -> torch.Tensor:
    """Return the weights after one step of SGD with the mean over the ranks."""
    return start() - LEARNING_RATE * summed(world_size) / world_size


def require_known_step(
    deepspeed: Any,
    config: Mapping[str, Any],
    precision: Precision,
    ranks: Ranks,
    *,
    device: torch.device,
    exact: bool = False,
) -> None:
    """Take the step, and refuse a DeepSpeed that comes to another result. Called on every rank.

    Args:
        deepspeed: the module.
        config: as the user's engine gets it.
        precision: computed in.
        ranks: all of them.
        device: where the optimizer's parameters are.
        exact: whether gradients are summed exactly, and not by DeepSpeed.

    Raises:
        ConfigError: on every rank, when one has seen another gradient, master or weight.
    """
    version = deepspeed.__version__
    try:
        found = _step(deepspeed, config, precision, ranks, device, exact=exact)
    except (AttributeError, KeyError, TypeError) as error:  # the same release runs on all ranks
        raise ConfigError(
            f"DeepSpeed {version} cannot be used as it is here: {first_line(error)}. "
            f"{INSTALL_TESTED}, or use --strategy fsdp."
        ) from error
    wrong = torch.tensor(float(found is not None), dtype=torch.float64, device=ranks.device)
    if sum_over_ranks(wrong, ranks):
        raise ConfigError(
            f"DeepSpeed {version} computes a wrong result for a known step in "
            f"{precision.name} on {ranks.world_size} ranks: {found or 'on another rank'}. "
            f"{INSTALL_TESTED}, or use --strategy fsdp."
        )


class _Tiny(nn.Module):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(start().to(device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * x).float().sum()


def _step(
    deepspeed: Any,
    config: Mapping[str, Any],
    precision: Precision,
    ranks: Ranks,
    device: torch.device,
    *,
    exact: bool,
) -> str | None:
    """Return what differs on this rank; None: nothing."""
    model = _Tiny(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=_small(config))
    try:
        layout = layout_of(engine.optimizer, deepspeed.__version__)
        if isinstance(layout, Stage12):
            layout.sum_in_fp32()
        sums = None
        if exact:
            order = {name: None for name, _ in model.named_parameters()}
            sums = ExactSums(engine.optimizer, layout, order, ranks, version=deepspeed.__version__)
            sums.begin({}, 2 * ranks.world_size)
        for micro_batch in (0, 1):
            engine.set_gradient_accumulation_boundary(micro_batch == 1)
            x = gradient(micro_batch, ranks.rank).to(ranks.device, precision.compute_dtype)
            engine.backward(engine(x), scale_wrt_gas=False)
            if sums is not None:
                sums.finish()
        if sums is not None:
            sums.put()
        divides_by = layout.divides_by if sums is None else 1
        wrong = _gradients(layout, summed(ranks.world_size), divides_by)
        scale = ranks.world_size / divides_by
        apply_step(engine, layout, scale, is_finite=True, grad_norm=float(summed(1).norm()))
        weights = stepped(ranks.world_size)
        wrong = wrong or _masters(layout, weights)
        low = weights.to(precision.compute_dtype)
        with torch.no_grad():
            computed = float(engine(torch.ones_like(low, device=ranks.device)))
        # A master between two values of bf16 may be rounded to the other one.
        total = float(low.float().sum())
        return wrong or _differs("the sum of its weights", computed, total, tolerance=0.02)
    finally:
        engine.destroy()


def _small(config: Mapping[str, Any]) -> dict[str, Any]:
    zero = dict(config["zero_optimization"])
    zero |= {"reduce_bucket_size": _SMALL, "allgather_bucket_size": _SMALL}
    if zero["stage"] == 3:
        # Shared, as large parameters are; so small a one would stay whole on every rank.
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": _SMALL}
    return {**config, "zero_optimization": zero}


def _gradients(layout: Stage12 | Stage3, expected: torch.Tensor, divides_by: int) -> str | None:
    for piece, grad in layout.gradients():
        whole = grad.detach().float().cpu().reshape(-1) * divides_by
        if wrong := _first(f"gradient of {_NAME}", whole, expected, piece.start, piece.end):
            return wrong
    return None


def _masters(layout: Stage12 | Stage3, expected: torch.Tensor) -> str | None:
    for piece in layout.pieces():
        master = piece.of(piece.buffer).float().cpu()
        if wrong := _first(f"master of {_NAME}", master, expected, piece.start, piece.end):
            return wrong
    return None


def _first(
    what: str, found: torch.Tensor, expected: torch.Tensor, start: int, end: int
) -> str | None:
    """Return the first element in which a piece [start, end) differs."""
    for number, (is_, should) in enumerate(
        zip(found.tolist(), expected[start:end].tolist(), strict=True), start
    ):
        if (wrong := _differs(f"{what}[{number}]", is_, should)) is not None:
            return wrong
    return None


def _differs(
    what: str, found: float, expected: float, *, tolerance: float = _TOLERANCE
) -> str | None:
    if abs(found - expected) <= tolerance * max(1.0, abs(expected)):
        return None
    return f"{what} is {found:g} and not {expected:g}"
