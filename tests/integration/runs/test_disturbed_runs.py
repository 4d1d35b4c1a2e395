"""Killed, asked to leave, damaged: the run ends as if nothing had happened."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.proc_files import proc_bytes

pytestmark = pytest.mark.timeout(180)
SLOW = ("--pause", "0.1")


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def ranks_of(launched: Any) -> list[int]:
    """The pids of the ranks, in rank order."""
    found = {}
    for pid in launched.processes():
        environ = proc_bytes(pid, "environ").split(b"\0")
        by_name = dict(item.split(b"=", 1) for item in environ if b"=" in item)
        if b"RANK" in by_name and os.getpgid(pid) == pid:
            found[int(by_name[b"RANK"])] = pid
    return [found[rank] for rank in sorted(found)]


def test_plain_python_gives_the_same_bits_as_one_rank(
    launch: Callable[..., Any], run: Any, small: str, undisturbed: Any
) -> None:
    launched = launch("--run-dir", str(run.path), small, env={"OMP_NUM_THREADS": "1"})
    assert launched.wait(90) == 0, launched.stderr
    assert run.difference(undisturbed) == 0.0
    mine, theirs = run.records("metrics.jsonl"), undisturbed.records("metrics.jsonl")
    assert [r["loss"] for r in mine] == [r["loss"] for r in theirs]


@pytest.mark.parametrize("victim", [pytest.param("rank", marks=pytest.mark.slow), "launcher"])
def test_sigkill_in_the_middle(
    victim: str, launch: Callable[..., Any], run: Any, small: str, tmp_path: Path
) -> None:
    arguments = ("--nproc-per-node", "2", "--strategy", "zero2", "--run-dir", str(run.path), small)
    launched = launch(*arguments, *SLOW)
    until(lambda: run.last_step() >= 12)
    os.kill(ranks_of(launched)[1] if victim == "rank" else launched.pid, signal.SIGKILL)
    code = launched.wait(60)
    assert code == (137 if victim == "rank" else -signal.SIGKILL)
    until(lambda: not launched.processes(), 5.0)

    killed_after = run.last_step()
    again = launch(*arguments)
    assert again.wait(90) == 0, again.stderr
    second = run.events("start")[1]
    assert second["resumed"]
    assert 5 <= second["step"] <= killed_after
    steps = [r["step"] for r in run.records("metrics.jsonl")]
    assert steps == sorted(set(steps)), "a step that was done again must not be recorded twice"

    other = run.__class__(tmp_path / "other")
    whole = launch(*arguments[:-2], str(other.path), small)
    assert whole.wait(90) == 0, whole.stderr
    assert run.difference(other) == 0.0
    assert run.events("test")[0]["test/loss"] == other.events("test")[0]["test/loss"]


@pytest.mark.parametrize("asked", ["launcher", pytest.param("rank", marks=pytest.mark.slow)])
def test_asked_to_leave_then_other_ranks_under_another_strategy(
    asked: str, launch: Callable[..., Any], run: Any, small: str, undisturbed: Any
) -> None:
    to = ("--run-dir", str(run.path), small)
    first = launch("--nproc-per-node", "2", "--strategy", "ddp", *to, *SLOW)
    until(lambda: run.last_step() >= 4)
    os.kill(first.pid if asked == "launcher" else ranks_of(first)[1], signal.SIGTERM)
    assert first.wait(60) == 75, first.stderr
    end = run.events("end")[0]
    assert end["ending"] == "preempted"
    assert run.steps_on_disk()[0] == end["step"]

    second = launch("--nproc-per-node", "3", "--strategy", "fsdp", *to, *SLOW)
    until(lambda: run.last_step() >= end["step"] + 4)
    os.kill(second.pid, signal.SIGTERM)
    assert second.wait(60) == 75, second.stderr

    third = launch("--nproc-per-node", "1", "--strategy", "zero3", *to)
    assert third.wait(90) == 0, third.stderr
    starts, ends = run.events("start"), run.events("end")
    assert [s["step"] for s in starts] == [0, *(e["step"] for e in ends[:2])]
    assert [(s["strategy"], s["world_size"]) for s in starts] == [
        ("ddp", 2),
        ("fsdp", 3),
        ("zero3", 1),
    ]
    assert ends[2]["step"] == undisturbed.events("end")[0]["step"]
    assert run.difference(undisturbed, key="fp32/") <= 1e-5


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    launch: Callable[..., Any], run: Any, small: str, undisturbed: Any
) -> None:
    to = ("--run-dir", str(run.path), small)
    environ = {"OMP_NUM_THREADS": "1"}
    first = launch(*to, *SLOW, env=environ)
    until(lambda: run.last_step() >= 12)
    first.send(signal.SIGTERM)
    assert first.wait(60) == 75, first.stderr
    newest, before = run.steps_on_disk()[:2]
    shard = run.path / "checkpoints" / f"step-{newest:08d}" / "r00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)

    second = launch(*to, env=environ)
    assert second.wait(90) == 0, second.stderr
    assert "r00000.safetensors" in second.stderr
    assert f"Falling back to step {before}" in second.stderr
    assert run.events("checkpoint refused")[0]["reason"].startswith(f"step-{newest:08d}")
    assert run.events("start")[1]["step"] == before
    assert list((run.path / "checkpoints").glob(f"refused-step-{newest:08d}-*"))
    assert run.difference(undisturbed) == 0.0


def test_without_a_whole_checkpoint_nothing_is_lost_or_begun(
    launch: Callable[..., Any], run: Any, small: str
) -> None:
    to = ("--run-dir", str(run.path), small)
    first = launch(*to, "--epochs", "2")
    assert first.wait(60) == 0, first.stderr
    for manifest in (run.path / "checkpoints").glob("*/manifest.json"):
        manifest.write_text(manifest.read_text().replace('"step":', '"stop":', 1))
    kept = run.steps_on_disk()

    second = launch("--nproc-per-node", "2", *to)
    assert second.wait(60) == 2
    (sentence,) = second.said()
    assert "no checkpoint" in sentence
    assert "manifest.json" in sentence
    assert run.steps_on_disk() == kept


def test_a_finished_run_stays_finished(launch: Callable[..., Any], run: Any, small: str) -> None:
    to = ("--run-dir", str(run.path), small)
    assert launch(*to).wait(90) == 0
    before = run.state()
    again = launch("--nproc-per-node", "2", *to)
    assert again.wait(60) == 0, again.stderr
    assert "had finished already" in again.stdout
    after = run.state()
    assert all(bool((after[k] == before[k]).all()) for k in before)
    assert run.events("test")[0]["test/loss"] == pytest.approx(run.events("test")[1]["test/loss"])


def test_the_exported_model_is_the_best_one(
    launch: Callable[..., Any], run: Any, small: str
) -> None:
    from safetensors.torch import load_file

    launched = launch(
        "--nproc-per-node", "2", "--strategy", "zero3", "--run-dir", str(run.path), small
    )
    assert launched.wait(90) == 0, launched.stderr
    evaluations = [r for r in run.records("metrics.jsonl") if "val/loss" in r]
    best = min(evaluations, key=lambda r: r["val/loss"])
    assert run.events("test")[0]["test/loss"] == pytest.approx(best["val/loss"])
    exported = load_file(run.path / "export" / "model.safetensors")
    assert "head.weight" not in exported
    assert exported["embed.weight"].shape == (13, 37)
    assert exported["wide.weight"].shape == (2901, 37)
