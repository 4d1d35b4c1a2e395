"""How many GPUs this process may use, found without starting CUDA."""

import ctypes
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the resolution of the options needs to know about this machine."""

    num_gpus: int
    """GPUs visible to the ranks."""
    num_cpus: int
    """CPUs on which this process may run."""
    cuda_visible_devices: str | None = None
    """The variable as it was given, for messages."""
    shares_gpus: bool = False
    """Several ranks may have one GPU: RELAUNCH_CUDA_BACKEND=gloo."""

    def describe_gpus(self) -> str:
        """Return "4 GPUs (CUDA_VISIBLE_DEVICES=0,1,2,3)"."""
        count = {0: "no GPU", 1: "1 GPU"}.get(self.num_gpus, f"{self.num_gpus} GPUs")
        if self.cuda_visible_devices is None:
            return count
        return f"{count} (CUDA_VISIBLE_DEVICES={self.cuda_visible_devices})"


def count_visible(cuda_visible_devices: str | None, num_installed: int) -> int:
    """Count devices as CUDA does: the list is used up to its first entry that names none.

    An entry is an index below `num_installed` or the beginning of a UUID (GPU-..., MIG-...).
    CUDA takes a list with the same entry twice as an empty one.
    """
    if cuda_visible_devices is None or num_installed == 0:
        return num_installed
    visible: list[str] = []
    for entry in (text.strip() for text in cuda_visible_devices.split(",")):
        is_index = entry.isdecimal() and int(entry) < num_installed
        if not is_index and not entry.startswith(("GPU-", "MIG-")):
            break
        visible.append(str(int(entry)) if is_index else entry)
    return len(visible) if len(set(visible)) == len(visible) else 0


def count_installed() -> int:
    """Ask the driver's management library, which starts no CUDA; 0 where there is no driver."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return _count_in_proc(Path("/proc/driver/nvidia/gpus"))
    if nvml.nvmlInit_v2() != 0:
        return 0
    count = ctypes.c_uint(0)
    failed = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    nvml.nvmlShutdown()
    return 0 if failed else count.value


def _count_in_proc(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except OSError:
        return 0
