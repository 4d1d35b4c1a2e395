"""Precision as one frozen policy: which dtype computes, reduces and leaves the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .errors import ConfigError
from .names import PRECISION_NAMES


@dataclass(frozen=True, kw_only=True)
class Precision:
    """What one `--precision` means under every strategy.

    The fp32 masters are not part of it: they are always there.
    """

    name: str
    compute_dtype: torch.dtype
    """Dtype of matrix products and activations in forward and backward."""
    reduce_dtype: torch.dtype = torch.float32
    """Dtype in which gradients are summed over the ranks."""
    output_dtype: torch.dtype = torch.float32
    """Floating-point outputs of the model are cast to it, so that losses are computed in fp32."""

    @property
    def is_mixed(self) -> bool:
        """Whether compute differs from the masters' fp32."""
        return self.compute_dtype != torch.float32

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether small gradients would vanish without a loss scale (fp16's 5 exponent bits)."""
        return self.compute_dtype == torch.float16


_POLICIES: dict[str, Precision] = {
    "fp32": Precision(name="fp32", compute_dtype=torch.float32),
    "bf16": Precision(name="bf16", compute_dtype=torch.bfloat16),
    "fp16": Precision(name="fp16", compute_dtype=torch.float16),
}


def precision_for(name: str, device_type: str) -> Precision:
    """Return the policy called `name`.

    Raises:
        ConfigError: an unknown name, or fp16 on a device without fp16 kernels.
    """
    if name not in _POLICIES:
        raise ConfigError(
            f'unknown precision "{name}"; choose from {", ".join(sorted(PRECISION_NAMES))}.'
        )
    if name == "fp16" and device_type == "cpu":
        raise ConfigError(
            "precision=fp16 needs a GPU, and this run computes on the CPU. "
            "Use --precision bf16 or --precision fp32."
        )
    return _POLICIES[name]
