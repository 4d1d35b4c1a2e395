"""`--nproc-per-node cpu` in a container: no more ranks than its quota of CPU time."""

from pathlib import Path

import pytest

from launcher.plan.machine import cpu_quota, num_cpus


@pytest.mark.parametrize(
    ("allowed", "quota", "count"),
    [
        (8, None, 8),
        (8, 2.0, 2),
        (8, 2.5, 3),
        (8, 0.5, 1),
        (2, 64.0, 2),
        (8, 0.0, 1),
    ],
)
def test_the_smaller_of_allowed_cpus_and_quota(
    allowed: int, quota: float | None, count: int
) -> None:
    assert num_cpus(allowed, quota) == count


V2 = "0::/"
V1 = "5:devices:/job\n4:cpu,cpuacct:/docker/abc\n0::/"


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        (V2, {}, None),
        (V2, {"cpu.max": "max 100000\n"}, None),
        (V2, {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/job/step", {"job/cpu.max": "200000 100000", "job/step/cpu.max": "max 100000"}, 2.0),
        ("0::/job/step", {"cpu.max": "50000 100000", "job/cpu.max": "200000 100000"}, 0.5),
        # The host's path, which is not there in the container.
        ("0::/kubepods/pod1/abc", {"cpu.max": "400000 100000"}, 4.0),
        (V2, {"cpu.max": "rubbish"}, None),
        (V2, {"cpu.max": "1 0"}, None),
        ("nonsense", {"cpu.max": "1 1"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
        (
            V1,
            {
                "cpu/docker/abc/cpu.cfs_quota_us": "50000",
                "cpu/docker/abc/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
    ],
)
def test_the_quota_of_a_cgroup(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    for name, text in files.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "cgroup").write_text(groups)
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "fs") == quota


def test_without_proc_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path) is None
