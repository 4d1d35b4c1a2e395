"""What NCCL and the driver answer when ranks meet on GPUs, as sentences with a remedy. Pure.

NCCL's words are those of its versions 2.27 to 2.30, as torch passes them on: the last line after
"Last error:" names the cause.
"""

from __future__ import annotations

import re

from ..errors import ConfigError, StrategyError

IN_USE_BYTES = 2 * 2**30
"""More than what CUDA and NCCL take for themselves on a GPU, which is up to about 1 GiB."""

_ONE_GPU = "Duplicate GPU detected"
_REMEDIES = (
    (
        _ONE_GPU,
        "Two ranks use one GPU. Start at most one rank for each GPU of a node, or set "
        "RELAUNCH_CUDA_BACKEND=gloo to try a run with ranks that share one.",
    ),
    (
        "no socket interface found|no usable.* interface",
        "Name the network interface that connects the nodes, as in NCCL_SOCKET_IFNAME=eth0; "
        "relaunch doctor lists those that are here.",
    ),
    (
        "No route to host|Network is unreachable|Connection (refused|timed out|reset)"
        "|failed to connect|Connect to .* failed",
        "The ranks must reach each other over the interface that NCCL has chosen. Name another in "
        "NCCL_SOCKET_IFNAME, or open the ports between the nodes; relaunch doctor measures the "
        "connection of each pair.",
    ),
    (
        "out of memory|CUDA-capable device.* busy",
        "The GPU's memory is taken, by another process or by too many ranks; nvidia-smi shows by "
        "whom.",
    ),
)
"""Regular expression of NCCL's last error to what can be done about it."""


def explained(message: str) -> StrategyError | ConfigError | None:
    """Return NCCL's failure as a sentence; None where its words are not known.

    Args:
        message: of the exception from torch.distributed.
    """
    if "NCCL" not in message:
        return None
    cause = message.rpartition("Last error:")[2].strip().partition("\n")[0].strip() or message
    for words, remedy in _REMEDIES:
        if re.search(words, message) is not None:
            text = f"NCCL could not connect the ranks: {cause.rstrip('.')}. {remedy}"
            return ConfigError(text) if words == _ONE_GPU else StrategyError(text)
    return None


def in_use_text(device: str, free_bytes: int, total_bytes: int, own_bytes: int) -> str | None:
    """Return a warning where others hold much of a GPU's memory before a run has begun.

    Args:
        device: as "cuda:0".
        free_bytes: as the driver reports it.
        total_bytes: of the GPU.
        own_bytes: what this process has allocated.
    """
    others_bytes = total_bytes - free_bytes - own_bytes
    if others_bytes <= IN_USE_BYTES:
        return None
    return (
        f"{device}: {others_bytes / 2**30:.1f} of {total_bytes / 2**30:.1f} GiB are in use before "
        "the training, by other processes or what an earlier run left: it may not fit, and is "
        "slower. nvidia-smi and relaunch doctor show by whom."
    )
