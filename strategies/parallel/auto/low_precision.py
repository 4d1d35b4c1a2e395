"""Mixed precision on tensors without memory, as torch.autocast does it on a GPU.

torch.autocast has no rules for the meta device, and a model that is cast as a whole holds less than
one under autocast: there the stream between the blocks and what normalizes it stay in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

# Read in torch 2.13 (aten/src/ATen/autocast_mode.h), by the names that a mode sees.
_LOWER = """
linear matmul __matmul__ __rmatmul__ mm bmm mv addmm addmv addr addbmm baddbmm einsum chain_matmul
multi_dot prelu conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d
convolution _convolution scaled_dot_product_attention multi_head_attention_forward lstm gru rnn_tanh
rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
"""
_WHOLE = """
acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__
softplus layer_norm native_layer_norm group_norm rms_norm norm cosine_similarity softmax log_softmax
softmin sum prod cumsum cumprod vector_norm matrix_norm logsumexp cross_entropy nll_loss kl_div
l1_loss smooth_l1_loss huber_loss mse_loss hinge_embedding_loss margin_ranking_loss
multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss poisson_nll_loss
cosine_embedding_loss binary_cross_entropy_with_logits dist pdist cdist renorm
"""
LOWER, WHOLE = frozenset(_LOWER.split()), frozenset(_WHOLE.split())
"""Functions that compute in the low precision, and those that compute in fp32."""


class AutocastAsOnGPU(TorchFunctionMode):
    """Casts what functions are given, as autocast would on a GPU.

    Args:
        dtype: the low precision.
        model: whose parameters are cast once, before anything is counted: what those casts take is
            no activation.
    """

    def __init__(self, dtype: torch.dtype, model: nn.Module) -> None:
        super().__init__()
        self._dtype = dtype
        # Autocast keeps the casts of leaves that are trained.
        kept = [p for p in model.parameters() if p.requires_grad and p.dtype == torch.float32]
        self._casts = {id(p): p.to(dtype) for p in kept}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Cast, and carry out a function."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in LOWER:
            args, kwargs = tree_map_only(torch.Tensor, self._lower, (args, kwargs))
        elif name in WHOLE and not _has_dtype(kwargs):
            args, kwargs = tree_map_only(torch.Tensor, self._whole, (args, kwargs))
        return func(*args, **kwargs)

    def _lower(self, tensor: torch.Tensor) -> torch.Tensor:
        if (kept := self._casts.get(id(tensor))) is not None:
            return kept
        is_eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
        return tensor.to(self._dtype) if is_eligible else tensor

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _has_dtype(kwargs: Mapping[str, Any]) -> bool:
    return kwargs.get("dtype") is not None
