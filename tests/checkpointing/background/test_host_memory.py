"""What the kernel's files say of the memory that is left."""

import pytest

from checkpointing import host_free_bytes

MIB = 2**20
MEMINFO = "MemTotal:  9 kB\nMemAvailable:    3072000 kB\n"
V2 = "/sys/fs/cgroup"
V1 = "/sys/fs/cgroup/memory"
JOB = "/system.slice/slurmstepd.scope/job_7/step_0"


def group(folder, limit_mib, used_mib, cached_mib=0, *, v1=False):
    """Return the files of a control group."""
    limit = "max" if limit_mib is None else str(limit_mib * MIB)
    if v1 and limit_mib is None:
        limit = "9223372036854771712"
    names = ("memory.max", "memory.current")
    if v1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    word = "total_inactive_file" if v1 else "inactive_file"
    return {
        f"{folder}/{names[0]}": f"{limit}\n",
        f"{folder}/{names[1]}": f"{used_mib * MIB}\n",
        f"{folder}/memory.stat": f"anon 5\n{word} {cached_mib * MIB}\nslab 7\n",
    }


@pytest.mark.parametrize(
    ("files", "free_mib"),
    [
        ({}, 3000),
        ({"/proc/self/cgroup": "0::/\n"}, 3000),
        ({"/proc/self/cgroup": "0::/\n", **group(V2, None, 5)}, 3000),
        ({"/proc/self/cgroup": "0::/\n", **group(V2, 2000, 500)}, 1500),
        ({"/proc/self/cgroup": "0::/\n", **group(V2, 2000, 1900, 400)}, 500),
        # The limit of a Slurm job is above that of its step.
        (
            {
                "/proc/self/cgroup": f"0::{JOB}\n",
                **group(V2 + JOB, None, 100),
                **group(V2 + JOB.rpartition("/")[0], 1000, 300),
            },
            700,
        ),
        # In a container the group's own files may lie at the root.
        ({"/proc/self/cgroup": "0::/docker/1f\n", **group(V2, 800, 100)}, 700),
        ({"/proc/self/cgroup": f"4:memory:{JOB}\n", **group(V1 + JOB, 900, 100, v1=True)}, 800),
        ({"/proc/self/cgroup": f"4:memory:{JOB}\n", **group(V1 + JOB, None, 1, v1=True)}, 3000),
        ({"/proc/self/cgroup": f"4:cpu:{JOB}\n", **group(V1 + JOB, 900, 100, v1=True)}, 3000),
        ({"/proc/self/cgroup": "0::/\n", **group(V2, 100, 500)}, 0),
    ],
)
def test_the_least_of_the_machine_and_of_each_group_counts(files, free_mib):
    files = {"/proc/meminfo": MEMINFO, **files}
    assert host_free_bytes(lambda path: files.get(path, "")) == free_mib * MIB


def test_a_kernel_that_does_not_say_it():
    assert host_free_bytes(lambda path: "") is None


def test_this_machine_says_it():
    assert host_free_bytes() > 0
