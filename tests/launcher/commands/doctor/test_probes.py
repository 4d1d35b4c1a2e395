"""Looking at a folder and at nvidia-smi's answers; the probe of the ranks, from end to end."""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.commands.doctor import command, nvidia
from launcher.commands.doctor.command import job_time_of, run
from launcher.commands.doctor.facts import NodeFacts
from launcher.commands.doctor.probe_ranks import pairs_of
from launcher.commands.doctor.probes import is_free, look_at_folder, look_at_node, pids_folders
from launcher.errors import UsageError
from launcher.plan.machine import Machine
from launcher.schedulers.slurm.job_info import JobFacts

WHOLE = (
    "0, NVIDIA H100 80GB HBM3, GPU-aa, 0, 0x0000000000000041, 88, 1024, 81559\n"
    "1, NVIDIA H100 80GB HBM3, GPU-bb, [N/A], [Insufficient Permissions], 30, 0, 81559\n"
)


def test_nvidia_smi_is_read() -> None:
    def ask(words: Sequence[str]) -> str:
        return WHOLE if "--query-gpu" in words[1] else "GPU-aa, 17\nGPU-aa, 18\n"

    hot, hidden = nvidia.look(ask)
    assert (hot.index, hot.uncorrected_errors, hot.throttle_mask) == (0, 0, 0x41)
    assert (hot.temperature_c, hot.used_bytes, hot.pids) == (88, 1 << 30, (17, 18))
    assert (hidden.uncorrected_errors, hidden.throttle_mask, hidden.pids) == (None, None, ())


def test_an_older_driver_knows_fewer_fields() -> None:
    def ask(words: Sequence[str]) -> str | None:
        return None if "ecc" in words[1] else "0, Tesla, GPU-aa\n" if "uuid" in words[1] else ""

    (one,) = nvidia.look(ask)
    assert (one.name, one.uncorrected_errors) == ("Tesla", None)


@pytest.mark.parametrize("name", ["clocks_event_reasons", "clocks_throttle_reasons"])
def test_a_lower_clock_has_another_name_in_newer_drivers(name: str) -> None:
    def ask(words: Sequence[str]) -> str | None:
        return WHOLE if name in words[1] else None

    hot, _ = nvidia.look(ask)
    assert hot.throttle_mask == 0x41
    assert hot.pids is None, "nvidia-smi did not answer who computes on it"
    assert NodeFacts.of(json.loads(json.dumps(replace(look_at_node(), gpus=(hot,)).to_json())))


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("0::/\n", [""]),
        ("0::/job_7/step_0\n", ["job_7/step_0", "job_7", ""]),
        ("4:pids,cpu:/docker/a\n2:memory:/x\n", ["pids/docker/a", "pids/docker", "pids"]),
        ("4:memory:/m\n0::/u\n", ["u", ""]),
        ("", []),
    ],
)
def test_limits_of_processes_stand_in_every_group_above(text: str, folders: list[str]) -> None:
    assert pids_folders(text) == [Path("/sys/fs/cgroup") / one for one in folders]


def test_a_taken_port() -> None:
    with socket.socket() as one:
        one.bind(("", 0))
        one.listen()
        assert not is_free(port := one.getsockname()[1])
    assert is_free(port)


def test_nvidia_smi_that_does_not_answer() -> None:
    with pytest.raises(nvidia.NoGpuAnswerError, match="no permission"):
        nvidia.look(lambda words: None)


def test_a_folder_is_left_as_it_was(tmp_path: Path) -> None:
    found = look_at_folder(tmp_path / "new" / "runs", size_bytes=1 << 20)
    assert (found.locks, found.renames, found.problem) == (True, True, "")
    assert found.write_bytes_per_s
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert look_at_folder(tmp_path / "file" / "runs").problem


def test_facts_go_from_node_to_node() -> None:
    here = look_at_node()
    assert NodeFacts.of(json.loads(json.dumps(here.to_json()))) == here


def test_pairs() -> None:
    assert pairs_of(3) == [(0, 1), (0, 2), (1, 2)]
    assert pairs_of(1) == []
    many = pairs_of(64)
    assert {rank for pair in many for rank in pair} == set(range(64))
    assert len(many) <= 66


def test_times_of_a_job() -> None:
    job = JobFacts(
        state="RUNNING",
        reason="None",
        restarts=0,
        preempt_time_s=None,
        end_time_s=1000.0,
        may_requeue=False,
    )
    found = job_time_of(job, 30.0, None, 400.0)
    assert (found.left_s, found.grace_s, found.may_requeue) == (600.0, 30.0, False)
    assert job_time_of(job, None, None, 2000.0).left_s == 0.0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--nproc-per-node", "0"), "--nproc-per-node 0 must be above 0"),
        (("--timeout", "-1"), "--timeout -1 must be above 0"),
        (("--master-port", "70000"), "--master-port 70000 is not a port"),
        (("--save-size", "much"), "much is not a size"),
    ],
)
def test_bad_input(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        run(words)


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """NCCL refuses them, and each would fail for itself; ranks that share GPUs are measured."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    counts: list[int] = []

    def asked(given: object, count: int, folder: object) -> str:
        counts.append(count)
        return "not asked"

    monkeypatch.setattr(command, "_ask_ranks", asked)
    words = ("--run-dir", str(tmp_path), "--nproc-per-node", "2")
    for num_gpus, shares_gpus in ((0, False), (2, False), (1, True)):
        machine = Machine(num_gpus=num_gpus, num_cpus=6, shares_gpus=shares_gpus)
        monkeypatch.setattr(Machine, "here", lambda _, found=machine: found)
        run(words)
        run(words[:2])
    assert counts == [2, 2, 2, 2, 2, 1]
    monkeypatch.setattr(Machine, "here", lambda _: Machine(num_gpus=1, num_cpus=6))
    with pytest.raises(UsageError, match="shows 1 GPU, and NCCL needs one for each rank"):
        run(words)


def test_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    words = ("--run-dir", str(tmp_path / "runs"), "--no-ranks", "--json", "--save-size", "1KB")
    code = run(words)
    document = json.loads(capsys.readouterr().out)
    assert code == document["exit_code"]
    by_name = {one["name"]: one["level"] for one in document["findings"]}
    assert by_name["all-reduce"] == "left out"
    assert by_name["locks and renames"] == "ok"
    assert not os.listdir(tmp_path)
