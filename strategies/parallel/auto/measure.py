"""What a model, its optimizer and one micro-batch need, measured without their memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_map_only

from ...data.reading.moving import map_tensors
from ...precision import Precision
from ...torch_internals import backward_within_modes
from ..calls.autocast import cast_floating
from ..model.block_transforms import work_on_blocks
from ..model.blocks import find_blocks, shared_with_outside
from ..model.build import build_on_meta
from ..model.deferred_init import AsIfOnCpu, is_plain_in_place
from ..strategy import Blueprint
from .attention import attention_as_on
from .live_bytes import FollowingMode, tensors_in
from .low_precision import AutocastAsOnGPU
from .measure_step import measure_step
from .memory_model import MASTER_BYTES, ModelSizes

Forward = Callable[[Any, Any], Any]
"""(model, batch) -> the loss, or the outputs."""


def measure_model(
    blueprint: Blueprint, batch: Any, forward: Forward | None, *, accumulates: bool = True
) -> ModelSizes:
    """Measure without memory. Called on the coordinator only; the model's factory is called once.

    Args:
        blueprint: of the run.
        batch: one collated micro-batch.
        forward: how the model is called; None: found by trying.
        accumulates: whether a rank has more than one micro-batch in a step.

    Raises:
        Exception: whatever the factory raises where there is no memory.
    """
    model = build_on_meta(blueprint)
    parameters = list(model.parameters())
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    trained = [p for _, p in named]
    frozen, buffers = [p for p in parameters if not p.requires_grad], list(model.buffers())
    found = find_blocks(model, blueprint.options.shard_blocks).values()
    blocks = [b for b in found if not shared_with_outside(model, b)]
    in_blocks = [sum(p.numel() for p in block.parameters()) for block in blocks]
    device_type = blueprint.ranks.device.type
    step = measure_step(blueprint.optimizer, named, device_type)
    average = 0 if blueprint.ema is None else MASTER_BYTES * sum(p.numel() for p in trained)
    work_on_blocks(model, replace(blueprint.options, compile_blocks=False))
    autocast_bytes = None
    if blueprint.precision.is_mixed and device_type == "cuda":  # first: the other casts the model
        autocast_bytes = _activation_bytes(blueprint, model, batch, forward, by_autocast=True)
    cast_bytes = _activation_bytes(blueprint, model, batch, forward, by_autocast=False)
    return ModelSizes(
        trainable=sum(p.numel() for p in trained),
        largest_parameter=max(p.numel() for p in trained),
        frozen_bytes=_size_bytes([*frozen, *buffers]),
        buffer_bytes=_size_bytes(buffers),
        optimizer_bytes=step.state_bytes + average,
        stepping_bytes=step.stepping_bytes,
        stepping_element_bytes=step.stepping_element_bytes,
        largest_block=max(in_blocks, default=0),
        root=sum(p.numel() for p in parameters) - sum(in_blocks),
        compute_bytes=blueprint.precision.compute_dtype.itemsize,
        activation_bytes=cast_bytes,
        autocast_bytes=autocast_bytes,
        exact=blueprint.options.exact,
        accumulates=accumulates,
        on_host=device_type == "cpu",
    )


class _Peak(FollowingMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of all tensors without memory that are made within it."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Carry out one operation and count what it makes."""
        kwargs = dict(kwargs or {})
        leaves = tensors_in((args, kwargs))
        if not leaves and any(a.name == "device" for a in func._schema.arguments):
            kwargs["device"] = torch.device("meta")
        if kwargs.get("device") is not None and any(t.is_meta for t in leaves):
            kwargs["device"] = torch.device("meta")
        if leaves and leaves[0].is_meta and is_plain_in_place(func):
            return args[0]
        if any(t.is_meta for t in leaves) and not all(t.is_meta for t in leaves):
            # Made from numbers on what the model took for its device, such as an empty cache.
            args, kwargs = tree_map_only(torch.Tensor, _without_memory, (args, kwargs))
        return self.follow(func, args, kwargs, lambda tensor: tensor.is_meta)


def _activation_bytes(
    blueprint: Blueprint,
    model: nn.Module,
    batch: Any,
    forward: Forward | None,
    *,
    by_autocast: bool,
) -> int | None:
    """Return what a micro-batch holds; None: it could not be measured.

    Args:
        blueprint: of the run.
        model: without memory; it is cast to the computing dtype unless `by_autocast`.
        batch: one collated micro-batch.
        forward: how the model is called; None: found by trying.
        by_autocast: whether the weights stay in fp32, as under single and ddp.
    """
    precision = blueprint.precision
    given: list[torch.Tensor] = []

    def on_meta(leaf: torch.Tensor) -> torch.Tensor:
        leaf = leaf.to("meta")
        casts = leaf.is_floating_point() and not by_autocast
        given.append(leaf.to(precision.compute_dtype) if casts else leaf)
        return given[-1]

    if not by_autocast:
        model.to(precision.compute_dtype)
    batch = map_tensors(batch, on_meta)
    # Gradients are counted apart: each is freed as soon as it is complete.
    trained = [p for p in model.parameters() if p.requires_grad]
    hooks: list[Any] = [p.register_post_accumulate_grad_hook(_let_go) for p in trained]  # type: ignore[no-untyped-call]
    try:
        for call in [forward] if forward is not None else _ways(batch):
            called = _AsCalled(model, precision, by_autocast=by_autocast)
            peak = _Peak()
            try:
                with attention_as_on(blueprint.ranks.device.type), peak:
                    with AsIfOnCpu():
                        loss = _loss_of(call(called if precision.is_mixed else model, batch))
                    with called.casts:  # what is computed again is computed as before
                        backward_within_modes(loss)
            except Exception:  # Whatever the user's model raises where there are no values.
                continue
            return _size_bytes(given) + peak.live.peak_bytes
        return None
    finally:
        for hook in hooks:
            hook.remove()


class _AsCalled(nn.Module):
    """A model as the engine calls it: under autocast or cast, its outputs in the output dtype."""

    def __init__(self, model: nn.Module, precision: Precision, *, by_autocast: bool) -> None:
        super().__init__()
        self.casts: AbstractContextManager[Any] = nullcontext()
        if by_autocast:
            self.casts = AutocastAsOnGPU(precision.compute_dtype, model)
        self._output_dtype = precision.output_dtype
        self.model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(super().__getattr__("model"), name)
        return partial(self._run, found) if inspect.ismethod(found) else found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        return self._run(self.model, *args, **kwargs)

    def _run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self.casts:
            found = function(*args, **kwargs)
        return cast_floating(found, self._output_dtype)


def _without_memory(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to("meta") if tensor.ndim else tensor


def _ways(batch: Any) -> list[Forward]:
    if isinstance(batch, Mapping):
        return [lambda model, b: model(**b), lambda model, b: model(b)]
    if isinstance(batch, list | tuple):
        return [
            lambda model, b: model(b[0]),
            lambda model, b: model(*b),
            lambda model, b: model(*b[:-1]),
            lambda model, b: model(b),
        ]
    return [lambda model, b: model(b)]


def _loss_of(output: Any) -> torch.Tensor:
    """Return a scalar; outputs go through what a cross-entropy keeps of them."""
    tensors = [t for t in _tensors(output) if t.is_floating_point() and t.requires_grad]
    scalars = [t for t in tensors if t.ndim == 0]
    if scalars:
        return scalars[0]
    rows = tensors[0].reshape(-1, tensors[0].shape[-1]).float()
    return F.cross_entropy(rows, torch.zeros_like(rows[:, 0], dtype=torch.int64), reduction="sum")


def _tensors(output: Any) -> list[torch.Tensor]:
    values = list(output.values()) if isinstance(output, Mapping) else output
    return tensors_in(values)


def _size_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _let_go(parameter: torch.Tensor) -> None:
    parameter.grad = None
