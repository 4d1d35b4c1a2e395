"""How much memory a rank may use."""

from __future__ import annotations

import torch

from checkpointing import host_free_bytes


def available_bytes(device: torch.device, local_world_size: int) -> int | None:
    """Return what this rank's device has free, shared with the ranks beside it.

    On a CPU the least of what the kernel calls available and what the control group has left.
    None: there is no kernel here that says it.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        sharing = -(-local_world_size // max(1, torch.cuda.device_count()))
        return int(free) // sharing
    free_bytes = host_free_bytes()
    return None if free_bytes is None else free_bytes // local_world_size
