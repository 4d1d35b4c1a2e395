"""Attention on tensors without memory, by the kernel that the run's device would take.

torch takes `math` for tensors of the meta device, which holds the scores of every pair of positions
several times. The fused kernels hold none, and have forms without memory too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

_HALF = (torch.float16, torch.bfloat16)
_LARGEST_FLASH_HEAD = 256
"""Elements of a head, in torch's sdp_utils.cpp (check_head_dim_size_flash)."""
_ALIGNED_BYTES = 16
"""Of a head, for the memory-efficient kernel (check_head_dim_size_mem_efficient)."""


@contextmanager
def attention_as_on(device_type: str) -> Iterator[None]:
    """Let scaled_dot_product_attention of tensors without memory make what it would there.

    Args:
        device_type: "cuda" or "cpu".
    """
    original = F.scaled_dot_product_attention

    def attend(*args: Any, **kwargs: Any) -> torch.Tensor:
        given = args[:3]
        if has_torch_function(given):  # a mode is there, which may cast them first
            found: torch.Tensor = handle_torch_function(original, given, *args, **kwargs)
            return found
        return _attend(original, device_type, *args, **kwargs)

    # nn.MultiheadAttention calls it by this name, where a mode does not reach; a script that has
    # imported the function itself is reached by the mode only.
    F.scaled_dot_product_attention = attend
    try:
        with _Attention(original, device_type):
            yield
    finally:
        F.scaled_dot_product_attention = original


class _Attention(TorchFunctionMode):
    def __init__(self, original: Any, device_type: str) -> None:
        super().__init__()
        self._original, self._device_type = original, device_type

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Take a kernel in the place of the function that chooses one."""
        if func is self._original:
            return _attend(func, self._device_type, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def kernel_of(
    device_type: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    has_mask: bool,
    dropout: float,
) -> str:
    """Return "flash", "efficient" or "math", as torch chooses by shapes and dtypes.

    By shapes alone: GPUs without flash (before Ampere) take the efficient kernel, which holds as
    much. What `torch.nn.attention.sdpa_kernel` rules out is not taken.

    Args:
        device_type: "cuda" or "cpu".
        query: (batch, heads, positions, head elements), as `key` and `value`.
        key: may have fewer heads.
        value: as `key`.
        has_mask: whether a mask is given; is_causal is none.
        dropout: its probability.
    """
    if any(t.ndim != 4 for t in (query, key, value)):
        return "math"
    head, dtype = query.shape[-1], query.dtype
    same_heads = query.shape[1] == key.shape[1] == value.shape[1]
    same_head_size = head == key.shape[-1] == value.shape[-1]
    allowed: Any = torch.backends.cuda
    may_flash = allowed.flash_sdp_enabled() and same_head_size
    if device_type == "cpu":
        return "flash" if may_flash and same_heads and not dropout else "math"
    if may_flash and not has_mask and dtype in _HALF and head <= _LARGEST_FLASH_HEAD:
        return "flash"
    aligned = all(size * dtype.itemsize % _ALIGNED_BYTES == 0 for size in (head, value.shape[-1]))
    may_save = allowed.mem_efficient_sdp_enabled() and same_heads and aligned
    return "efficient" if may_save and dtype in (*_HALF, torch.float32) else "math"


def _attend(
    original: Any,
    device_type: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    kernel = "math"
    if query.is_meta or query.untyped_storage().device.type == "meta":
        kernel = kernel_of(
            device_type, query, key, value, has_mask=attn_mask is not None, dropout=dropout_p
        )
    if kernel == "math":
        found: torch.Tensor = original(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
        return found
    if attn_mask is not None and attn_mask.dtype != query.dtype:
        attn_mask = attn_mask.to(query.dtype)
    aten = torch.ops.aten
    made: Any
    if device_type == "cpu":
        made = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )
    elif kernel == "flash":
        made = aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )
    else:
        keeps_sums = any(t.requires_grad for t in (query, key, value))
        made = aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, keeps_sums, dropout_p, is_causal, scale=scale
        )
    result: torch.Tensor = made[0]
    return result
