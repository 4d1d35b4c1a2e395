"""How many GPUs this process may use, found without starting CUDA."""

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..contract.environment import CUDA_DEVICES, HIP_DEVICES, cuda_backend
from ..errors import UsageError

_OF_DRIVER = Path("/proc/driver/nvidia/gpus")
"""A folder for each GPU of the machine; in a container too."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the resolution of the options needs to know about this machine."""

    num_gpus: int
    """GPUs visible to the ranks."""
    num_cpus: int
    """CPUs on which this process may run, and no more than its container's quota of CPU time."""
    cuda_visible_devices: str | None = None
    """The variable as it was given, for messages."""
    shares_gpus: bool = False
    """Several ranks may have one GPU: RELAUNCH_CUDA_BACKEND=gloo."""
    variable: str = CUDA_DEVICES
    """Its name: HIP_VISIBLE_DEVICES where that one counts."""
    out_of_reach: int = 0
    """GPUs that the kernel's driver lists, where CUDA's library is not, as in a container."""
    devices: tuple[str, ...] = ()
    """The visible GPUs of NVIDIA, each by its index or the beginning of its UUID."""

    def describe_gpus(self) -> str:
        """Return "4 GPUs (CUDA_VISIBLE_DEVICES=0,1,2,3)"."""
        count = {0: "no GPU", 1: "1 GPU"}.get(self.num_gpus, f"{self.num_gpus} GPUs")
        if self.out_of_reach:
            return (
                f"{count} (NVIDIA's driver lists {self.out_of_reach}, and its libraries are not "
                "here: start the container with --gpus all, or --nv)"
            )
        if self.cuda_visible_devices is None:
            return count
        return f"{count} ({self.variable}={self.cuda_visible_devices})"

    @classmethod
    def here(cls, environ: Mapping[str, str]) -> "Machine":
        """Look at this machine; takes milliseconds and starts neither CUDA nor HIP.

        Raises:
            UsageError: RELAUNCH_CUDA_BACKEND is neither nccl nor gloo.
        """
        num_nvidia = count_installed()
        num_amd = 0 if num_nvidia else count_amd()
        variable = devices_variable(environ, is_amd=num_amd > 0)
        try:
            shares_gpus = cuda_backend(environ) == "gloo"
        except ValueError as error:
            raise UsageError(f"{error}.") from None
        visible = environ.get(variable)
        devices = visible_devices(visible, num_nvidia or num_amd)
        return cls(
            num_gpus=len(devices),
            out_of_reach=0 if num_nvidia or num_amd or visible == "" else _count_out_of_reach(),
            devices=tuple(devices) if num_nvidia else (),
            num_cpus=num_cpus(len(os.sched_getaffinity(0)), cpu_quota()),
            cuda_visible_devices=visible,
            variable=variable,
            shares_gpus=shares_gpus,
        )


def num_cpus(num_allowed: int, quota: float | None) -> int:
    """Return how many processes can run at once; pure.

    Args:
        num_allowed: CPUs on which this process may run.
        quota: CPU seconds a second that its cgroup may use; None: no limit. Half a CPU is one.
    """
    return num_allowed if quota is None else max(1, min(num_allowed, math.ceil(quota)))


def own_cgroups(proc: Path) -> list[tuple[str, str]]:
    """Return controllers and path of each cgroup that a process is in; none where unreadable.

    Args:
        proc: The process's, such as /proc/self/cgroup.
    """
    try:
        lines = proc.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
    fields = (line.split(":", 2) for line in lines if line.count(":") > 1)
    return [(controllers, path.lstrip("/")) for _, controllers, path in fields]


def cpu_quota(
    proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Return the least quota of this cgroup and those above, as of `docker run --cpus`.

    None: there is none, or it cannot be read.
    """
    found = []
    for controllers, path in own_cgroups(proc):
        if controllers == "":
            mount, read = root, _quota_v2
        elif "cpu" in controllers.split(","):
            mount, read = root / "cpu", _quota_v1
        else:
            continue
        # In a container the path may be the host's, and the own group is mounted at the root.
        own = mount / path
        found += [read(folder) for folder in (own, *own.parents) if folder.is_relative_to(mount)]
    return min((quota for quota in found if quota is not None), default=None)


def _quota_v2(group: Path) -> float | None:
    return _ratio(_words(group / "cpu.max"))


def _quota_v1(group: Path) -> float | None:
    return _ratio(_words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us"))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def _ratio(words: Sequence[str]) -> float | None:
    """Return quota / period in microseconds; "max" and -1 are no limit."""
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])


def devices_variable(environ: Mapping[str, str], *, is_amd: bool) -> str:
    """Return the name of the variable that says which devices are visible; pure."""
    return HIP_DEVICES if is_amd and HIP_DEVICES in environ else CUDA_DEVICES


def count_visible(cuda_visible_devices: str | None, num_installed: int) -> int:
    """Count devices as CUDA does; see `visible_devices`."""
    return len(visible_devices(cuda_visible_devices, num_installed))


def visible_devices(cuda_visible_devices: str | None, num_installed: int) -> list[str]:
    """Return the devices that CUDA takes: the list up to its first entry that names none.

    An entry is an index below `num_installed` or the beginning of a UUID (GPU-..., MIG-...).
    CUDA takes a list with the same entry twice as an empty one.
    """
    if cuda_visible_devices is None or num_installed == 0:
        return [str(index) for index in range(num_installed)]
    visible: list[str] = []
    for entry in (text.strip() for text in cuda_visible_devices.split(",")):
        is_index = entry.isdecimal() and int(entry) < num_installed
        if not is_index and not entry.startswith(("GPU-", "MIG-")):
            break
        visible.append(str(int(entry)) if is_index else entry)
    return visible if len(set(visible)) == len(visible) else []


def count_installed() -> int:
    """Ask the driver's management library, which starts no CUDA; 0 where there is no driver.

    A container may have CUDA's library alone.
    """
    nvml = _library("libnvidia-ml.so.1")
    if nvml is None:
        listed = _count_in_proc(_OF_DRIVER)
        return listed if listed and _library("libcuda.so.1") else 0
    if nvml.nvmlInit_v2() != 0:
        return 0
    count = ctypes.c_uint(0)
    failed = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    nvml.nvmlShutdown()
    return 0 if failed else count.value


def count_amd(nodes: Path = Path("/sys/class/kfd/kfd/topology/nodes")) -> int:
    """Count the GPUs among the nodes of AMD's driver; 0 where there is no driver.

    A node that is no GPU has 0 as its gpu_id.
    """
    found = 0
    try:
        for node in nodes.iterdir():
            found += (node / "gpu_id").read_text(encoding="ascii").strip() not in ("", "0")
    except OSError:
        return 0
    return found


def _count_out_of_reach() -> int:
    """Count GPUs of a machine that this process, in a container, cannot use."""
    listed = _count_in_proc(_OF_DRIVER)
    return 0 if not listed or _library("libcuda.so.1") else listed


def _library(name: str) -> ctypes.CDLL | None:
    """Return one of the driver's libraries, of which nothing is called yet."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _count_in_proc(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except OSError:
        return 0
