"""What DeepSpeed is asked for, and how it is imported."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import torch
import torch.distributed as dist

from ....errors import INSTALL_TESTED, ConfigError, first_line
from ..required import installed, require

_SHARED_MEMORY_OP = "deepspeed_shm_comm"
SUB_GROUP_ELEMENTS = 1_000_000_000
"""Stage 3 steps a group of more elements a rank in parts, one after the other (zero/config.py)."""
_UNUSED_BUCKET = 4096
"""Elements of a bucket that stays empty."""
_DEPRECATED_INSIDE = r"`torch.distributed.(all_gather_into_tensor|reduce_scatter_tensor)`"
"""torch's advice to DeepSpeed, which a user can do nothing about and would see once a rank."""


def engine_config(
    *, stage: int, precision: str, device_type: str, offload: bool, exact: bool = False
) -> dict[str, Any]:
    """Return the configuration of `deepspeed.initialize`. Pure."""
    on_host = {"device": "cpu", "pin_memory": device_type != "cpu"}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        # More than one, so that DeepSpeed prepares to accumulate; where a step ends is said by
        # `micro_step`, because its length differs at the end of an epoch.
        "gradient_accumulation_steps": 2,
        "zero_optimization": {
            "stage": stage,
            # Stage 3 replaces torch.nn.functional.linear for the whole process, by one that does
            # not hold gathered weights until backward. It rounds otherwise in bf16, and on a CPU
            # there is no memory to win. With exact sums it has to round as everywhere.
            "memory_efficient_linear": device_type != "cpu" and not exact,
            **({"offload_optimizer": on_host} if offload else {}),
            **({"offload_param": on_host} if offload and stage == 3 else {}),
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": 0.0,
        "communication_data_type": "fp32",
        # It would wait for the device in each forward and step, to tell a speed that nobody reads.
        "timers": {"throughput": {"enabled": False}},
    }
    if stage > 1:
        # Left out, DeepSpeed adds micro-batches in the precision of the weights. Stage 1 gets it
        # when it is built: see `Stage12.sum_in_fp32`.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if stage < 3:
        # It would divide by the ranks in the precision of the weights.
        config["gradient_allreduce_op"] = "sum"
    if exact:
        # Gradients are taken before they get there (exact_sums.py); it is made all the same.
        config["zero_optimization"]["reduce_bucket_size"] = _UNUSED_BUCKET
    if precision == "bf16":
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
    if precision == "fp16":
        config["fp16"] = {"enabled": True, "loss_scale": 1.0}
    return config


def import_deepspeed(strategy: str, device: torch.device) -> Any:
    """Return the module, ready for this device. Called on every rank.

    Raises:
        ConfigError: it is not installed, too old, or does not go with this torch.
    """
    require(strategy, installed())
    # The one place that writes this variable: DeepSpeed reads it when it is imported, and would
    # otherwise probe for accelerators and warn about what it found.
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", message=_DEPRECATED_INSIDE, category=FutureWarning)
    try:
        import deepspeed
        from deepspeed.utils import logger
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"strategy={strategy}: DeepSpeed {installed()} cannot be imported with torch "
            f"{torch.__version__}: {first_line(error)}. {INSTALL_TESTED}, or use --strategy fsdp."
        ) from error
    require(strategy, deepspeed.__version__)
    logger.setLevel(logging.WARNING)
    # Otherwise DeepSpeed compiles a shared-memory extension at its first collective, under a lock
    # that a killed rank leaves behind for ever. gloo does the same work. Written past the module's
    # `__getattr__`, which would try every one of its extensions, with compilers, on every rank.
    if device.type == "cpu":
        vars(deepspeed.ops).setdefault("__compatible_ops__", {})[_SHARED_MEMORY_OP] = False
    if device.type == "cuda":
        tell_free_memory(device)
    if not dist.is_initialized():
        raise AssertionError("process groups must be initialised before DeepSpeed")
    deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    return deepspeed


def tell_free_memory(device: torch.device) -> None:
    """Have DeepSpeed know of a GPU's free memory by CUDA.

    Stages 1 and 2 ask NVML, where that can be imported, for the number in CUDA_VISIBLE_DEVICES: a
    name (GPU-..., MIG-...) ends them, and NVML may count GPUs in another order.
    """
    from deepspeed.accelerator import get_accelerator

    vars(get_accelerator())["available_memory"] = lambda *_: torch.cuda.mem_get_info(device)[0]
