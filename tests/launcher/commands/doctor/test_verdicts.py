"""What each fact means: ok, a warning with its remedy, a failure, or a line left out."""

from dataclasses import replace
from typing import Any

import pytest

from launcher.commands.doctor import verdicts
from launcher.commands.doctor.facts import (
    FolderFacts,
    GpuFacts,
    JobTime,
    NodeFacts,
    PairSpeed,
    RanksFacts,
)
from launcher.commands.doctor.verdicts import Finding, Level

GB = 10**9
NODE = NodeFacts(
    host="a",
    versions={"relaunch": "1", "python": "3.11.7", "torch": "2.13.0", "deepspeed": None},
    shared_memory_free_bytes=8 * GB,
    open_files=4096,
    processes_left=None,
    interfaces=("eth0",),
    address="10.0.0.1",
)
GPU = GpuFacts(index=0, name="H100", uuid="GPU-1", uncorrected_errors=0, throttle_mask=1)
FOLDER = FolderFacts(
    path="/runs", write_bytes_per_s=1e9, free_bytes=100 * GB, locks=True, renames=True
)
RANKS = RanksFacts(
    world_size=3,
    backend="nccl",
    hosts=("a", "a", "b"),
    all_reduce_bytes_per_s=1e9,
    pairs=(
        PairSpeed(left=0, right=1, bytes_per_s=8e9),
        PairSpeed(left=0, right=2, bytes_per_s=8e9),
        PairSpeed(left=1, right=2, bytes_per_s=7e9),
    ),
)
OK, WARNING, FAILURE, LEFT_OUT = Level.OK, Level.WARNING, Level.FAILURE, Level.LEFT_OUT


def levels(findings: list[Finding]) -> list[Level]:
    for one in findings:
        assert one.remedy or one.level in (OK, LEFT_OUT), one
    return [one.level for one in findings]


@pytest.mark.parametrize(
    ("versions", "level", "text"),
    [
        ({}, OK, "python 3.11.7"),
        ({"torch": "2.12.0"}, FAILURE, "torch: 2.13.0 on a, 2.12.0 on b"),
        ({"deepspeed": "0.19"}, FAILURE, "deepspeed: none on a, 0.19 on b"),
    ],
)
def test_versions(versions: dict[str, str], level: Level, text: str) -> None:
    other = replace(NODE, host="b", versions={**NODE.versions, **versions})
    found = verdicts.versions([NODE, other])
    assert levels([found]) == [level]
    assert text in found.text


def test_no_torch() -> None:
    found = verdicts.versions([replace(NODE, versions={"torch": None})])
    assert found.level is FAILURE


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        ({}, OK, "1 GPU (H100)"),
        ({"uncorrected_errors": 2}, FAILURE, "2 uncorrected memory errors"),
        ({"throttle_mask": 0x40, "temperature_c": 91}, WARNING, "91 degrees C: it is too hot"),
        ({"throttle_mask": 0x80}, WARNING, "the power supply slows it down"),
        ({"throttle_mask": 0x4}, OK, "without errors"),
        ({"pids": (7, 8)}, WARNING, "other processes compute on it: 7, 8"),
        ({"uncorrected_errors": None}, LEFT_OUT, "does not show: ECC errors"),
        ({"pids": None}, LEFT_OUT, "does not show: other processes"),
        ({"used_bytes": 1 << 30}, OK, "without errors"),
        (
            {"used_bytes": 60 << 30, "total_bytes": 80 << 30},
            WARNING,
            "60 GiB of 80 GiB of its memory are in use, by no process",
        ),
        ({"used_bytes": 60 << 30, "pids": (7,)}, WARNING, "compute on it: 7"),
    ],
)
def test_gpus(change: dict[str, Any], level: Level, text: str) -> None:
    found = verdicts.gpus([replace(NODE, gpus=(replace(GPU, **change),))])
    assert levels(found) == [level]
    assert text in found[0].text


def test_gpus_of_nodes() -> None:
    assert verdicts.gpus([NODE])[0].text == "none: ranks run on CPUs"
    uneven = verdicts.gpus([replace(NODE, gpus=(GPU,)), replace(NODE, host="b")])
    assert levels(uneven) == [WARNING]
    blind = replace(NODE, left_out={"gpus": "no permission"})
    hidden = verdicts.gpus([blind])
    assert levels(hidden) == [LEFT_OUT]
    assert hidden[0].text == f"no permission on {NODE.host}"
    bad = replace(NODE, host="b", gpus=(replace(GPU, uncorrected_errors=1),))
    assert levels(verdicts.gpus([blind, bad])) == [LEFT_OUT, FAILURE], "the others are judged"


def test_ranks() -> None:
    assert levels(verdicts.ranks(RANKS, "")) == [OK, OK, OK]
    assert levels(verdicts.ranks(None, "refused")) == [FAILURE]
    slow = replace(RANKS, pairs=(*RANKS.pairs[:2], PairSpeed(left=1, right=2, bytes_per_s=1e9)))
    found = verdicts.ranks(slow, "")
    assert levels(found) == [OK, WARNING, OK]
    assert "rank 1 (a) and rank 2 (b)" in found[1].text
    assert levels(verdicts.ranks(replace(RANKS, clock_skew_s=3.0), "")) == [OK, OK, WARNING]
    alone = replace(RANKS, world_size=1, hosts=("a",), pairs=())
    assert levels(verdicts.ranks(alone, "")) == [OK]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, [OK, OK]),
        ({"problem": "Permission denied"}, [FAILURE]),
        ({"write_bytes_per_s": 1e6}, [WARNING, OK]),
        ({"free_bytes": GB}, [OK, FAILURE, OK]),
        ({"locks": False}, [OK, WARNING]),
        ({"renames": False}, [OK, FAILURE]),
    ],
)
def test_folder(change: dict[str, Any], expected: list[Level]) -> None:
    assert levels(verdicts.folder(replace(FOLDER, **change), None)) == expected


def test_the_time_of_a_save_follows_its_size() -> None:
    assert "about 28.0 s" in verdicts.folder(FOLDER, 28 * GB)[0].text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, [OK, OK, OK]),
        ({"shared_memory_free_bytes": 64 << 20}, [WARNING, OK, OK]),
        ({"shared_memory_free_bytes": None}, [LEFT_OUT, OK, OK]),
        ({"open_files": 256}, [OK, WARNING, OK]),
        ({"open_files": 32}, [OK, FAILURE, OK]),
        ({"open_files": None}, [OK, OK, OK]),
        ({"processes_left": 100}, [OK, OK, WARNING]),
        ({"processes_left": 1000}, [OK, OK, OK]),
        ({"processes_left": 0}, [OK, OK, WARNING]),
        ({"left_out": {"processes": "Permission denied"}}, [OK, OK, LEFT_OUT]),
    ],
)
def test_limits(change: dict[str, Any], expected: list[Level]) -> None:
    nodes = [replace(NODE, host="z"), replace(NODE, **change)]
    assert levels(verdicts.limits(nodes, 8, None)) == expected


@pytest.mark.parametrize(
    ("change", "several", "is_free", "expected"),
    [
        ({}, True, True, [OK]),
        ({}, True, False, [WARNING]),
        ({}, False, False, [OK]),
        ({"interfaces": ()}, True, True, [FAILURE]),
        ({"interfaces": ()}, False, True, [OK]),
        ({"address": "127.0.1.1"}, True, True, [WARNING]),
    ],
)
def test_network(
    change: dict[str, Any], several: bool, is_free: bool, expected: list[Level]
) -> None:
    node = replace(NODE, **change)
    found = verdicts.network([node], several=several, port=29500, port_is_free=is_free)
    assert levels(found) == expected


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (None, [OK]),
        (JobTime(problem="no answer"), [LEFT_OUT]),
        (JobTime(), [OK]),
        (JobTime(left_s=15.0), [WARNING]),
        (JobTime(left_s=3600.0, grace_s=60.0), [OK, OK]),
        (JobTime(grace_s=5.0), [OK, WARNING]),
        (JobTime(grace_s=0.0, kill_wait_s=30.0), [OK, WARNING]),
        (JobTime(kill_wait_s=30.0), [OK, OK]),
        (JobTime(may_requeue=False), [OK, WARNING]),
    ],
)
def test_job_time(job: JobTime | None, expected: list[Level]) -> None:
    assert levels(verdicts.job_time(job, 10.0)) == expected


def test_the_report() -> None:
    found = [verdicts.ok("disk", "fine"), verdicts.warning("open files", "few", "ulimit -n 9")]
    assert verdicts.exit_code(found) == 0
    assert verdicts.exit_code([*found, verdicts.failure("room", "none", "more")]) == 1
    assert verdicts.lines(found) == [
        "ok        disk        fine",
        "warning   open files  few",
        "                      ulimit -n 9",
    ]
    assert verdicts.document(found)["exit_code"] == 0
