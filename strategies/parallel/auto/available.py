"""How much memory a rank may use."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from checkpointing import host_free_bytes


def available_bytes(device: torch.device, local_world_size: int) -> int | None:
    """Return what this rank's device has free: of a GPU all, of the host this rank's share.

    On a CPU the least of what the kernel calls available and what the control group has left.
    None: there is no kernel here that says it.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    free_bytes = host_free_bytes()
    return None if free_bytes is None else free_bytes // local_world_size


def name_of(device: torch.device) -> str | None:
    """Return what no other GPU is called, on any host; None for a CPU.

    Its number is no name: where each rank sees one GPU alone, all are number 0.
    """
    if device.type != "cuda":
        return None
    return str(torch.cuda.get_device_properties(device).uuid)


def shared(free: Sequence[int | None], names: Sequence[str | None]) -> list[int | None]:
    """Return, by rank, its share of what its device has free. Pure.

    Args:
        free: by rank, of the whole device; None: not known.
        names: by rank, of its device; None: what is free is this rank's share already.
    """
    return [
        amount if amount is None or name is None else amount // list(names).count(name)
        for amount, name in zip(free, names, strict=True)
    ]
