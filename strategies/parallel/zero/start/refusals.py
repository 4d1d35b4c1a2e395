"""What ZeRO refuses of a model, and of what DeepSpeed has built."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ....errors import INSTALL_TESTED, ConfigError
from ....precision import Precision
from ...model.factory_checks import refuse_empty
from ..internals import Stage3, Stage12


def refuse_model(model: nn.Module, precision: Precision, strategy: str, stage: int) -> None:
    """Refuse BatchNorm in mixed precision, and in stage 3 parameters without elements.

    Raises:
        ConfigError: naming the module or the parameters.
    """
    if stage == 3:
        refuse_empty(model.named_parameters(), strategy)
    for name, module in model.named_modules():
        if precision.is_mixed and isinstance(module, _BatchNorm):
            raise ConfigError(
                f"{name} is a {type(module).__name__}, and DeepSpeed would keep its running "
                f"statistics in {precision.name}, where their small steps are lost. "
                "Use --precision fp32, or --strategy ddp or fsdp."
            )


def require_as_asked(
    layout: Stage12 | Stage3,
    optimizer: torch.optim.Optimizer,
    *,
    strategy: str,
    offload: bool,
    version: str,
) -> None:
    """Refuse an engine that is not what was asked of DeepSpeed.

    Raises:
        ConfigError: it steps with another optimizer, or offload or dtype differ.
    """
    if not layout.steps(optimizer):
        raise ConfigError(
            f"strategy={strategy}: DeepSpeed {version} steps with an optimizer of its own in "
            f"place of this {type(optimizer).__name__}, with one set of hyper-parameters for "
            "all groups. Use --strategy ddp or fsdp, or another optimizer."
        )
    built = {"offload": layout.is_offloaded, "sums of gradients": layout.sums_in}
    asked = {"offload": offload, "sums of gradients": torch.float32}
    for name, value in built.items():
        if value != asked[name]:
            raise ConfigError(
                f"strategy={strategy}: {name}: {asked[name]} was asked of DeepSpeed {version}"
                f", and it built {value}. {INSTALL_TESTED}."
            )
