"""At which NUMA node each visible GPU is, asked of the driver without starting CUDA."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

_DEVICES = Path("/sys/bus/pci/devices")


class _PciInfo(ctypes.Structure):
    """nvmlPciInfo_t of nvml.h, version 3."""

    _fields_ = (
        ("bus_id_legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("device_id", ctypes.c_uint),
        ("subsystem_id", ctypes.c_uint),
        ("bus_id", ctypes.c_char * 32),
    )


def gpu_nodes(visible: Sequence[str], devices: Path = _DEVICES) -> list[int] | None:
    """Return the NUMA node of each GPU; None: the driver or the kernel does not say it of all.

    Args:
        visible: Each GPU's index, or its UUID in full.
        devices: Where the kernel lists PCI devices.
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        places = [_place(nvml, entry) for entry in visible]
    finally:
        nvml.nvmlShutdown()
    found = [None if place is None else numa_node(place, devices) for place in places]
    return [node for node in found if node is not None] if None not in found else None


def numa_node(place: str, devices: Path = _DEVICES) -> int | None:
    """Return the node of a PCI device such as 00000000:17:00.0; None: the kernel has no such one.

    A machine of one node says -1, which is node 0.
    """
    domain, _, rest = place.lower().partition(":")
    try:
        text = (devices / f"{domain[-4:]}:{rest}" / "numa_node").read_text(encoding="ascii")
        return max(0, int(text))
    except (OSError, ValueError):
        return None


def _place(nvml: ctypes.CDLL, entry: str) -> str | None:
    handle, info = ctypes.c_void_p(), _PciInfo()
    if entry.isdecimal():
        failed = nvml.nvmlDeviceGetHandleByIndex_v2(int(entry), ctypes.byref(handle))
    else:
        failed = nvml.nvmlDeviceGetHandleByUUID(entry.encode(), ctypes.byref(handle))
    if failed or nvml.nvmlDeviceGetPciInfo_v3(handle, ctypes.byref(info)):
        return None
    return bytes(info.bus_id).decode()
