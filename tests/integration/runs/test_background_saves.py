"""Saves that are written while a run goes on, with real processes on two ranks."""

import json
from pathlib import Path

import pytest

from checkpointing import CheckpointStore

pytestmark = pytest.mark.timeout(120)

# Saves begin after steps 4, 8 and 12; the stopped writer keeps the save of step 8 in flight.
SCRIPT = """
import threading
import torch
from torch.utils.data import TensorDataset
from launcher import Run

def writers():
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            mine = f"PPid:\\t{os.getpid()}\\n" in (entry / "status").read_text()
            if mine and b"writer_process" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found

def tell(signum):
    (pid,) = writers()
    os.kill(pid, signum)

def main(run):
    samples = TensorDataset(torch.randn(64, 8), torch.randn(64, 1))
    job = run.prepare(
        model=lambda: torch.nn.Linear(8, 1),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        train=samples, global_batch=8, micro_batch=4, epochs=2, save_every="4 steps", keep=9,
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))
        while step.number == 4 and job._keeper.saving_step == 4 and not job._keeper.is_settled():
            time.sleep(0.01)  # so that the first save is over when the second begins
        if rank == 1:
            at_step(step.number)
    assert not writers()

def at_step(number):
    {AT_STEP}

Run.start(main)
"""


def run_script(launch, at_step: str, *options: str):
    script = launch.script(SCRIPT.replace("{AT_STEP}", at_step))
    return launch("--nproc-per-node", "2", "--run-dir", "run", *options, script)


def events(launch, kind: str) -> list[dict]:
    lines = (Path(launch.folder) / "run" / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def steps(launch) -> list[int]:
    store = CheckpointStore(Path(launch.folder) / "run" / "checkpoints")
    assert all(store.verify(step) == [] for step in store.steps())
    assert [path.name for path in store.folder.iterdir() if path.name.startswith(".")] == []
    return store.steps()


def test_a_killed_writer_costs_one_save(launch):
    kill = "number == 6 and tell(signal.SIGSTOP); number == 9 and tell(signal.SIGKILL)"
    launched = run_script(launch, kill, "--strategy", "zero1")
    assert launched.wait(60) == 0, launched.stderr
    (failed,) = events(launch, "save failed")
    assert failed["step"] == 8
    assert "rank 1: the process that writes checkpoints was ended by signal 9" in failed["reason"]
    assert [event["step"] for event in events(launch, "saved")] == [4, 12, 16]
    assert steps(launch) == [16, 12, 4]


def test_leaving_waits_for_the_save_in_flight(launch):
    leave = (
        "number == 6 and tell(signal.SIGSTOP); number == 9 and ("
        "threading.Timer(1.0, tell, (signal.SIGCONT,)).start(), "
        "os.kill(os.getpid(), signal.SIGTERM))"
    )
    launched = run_script(launch, leave, "--strategy", "ddp")
    assert launched.wait(60) == 75, launched.stderr
    saved = [event["step"] for event in events(launch, "saved")]
    assert saved[:2] == [4, 8]
    assert len(saved) == 3
    assert steps(launch) == sorted(saved, reverse=True)
    again = run_script(launch, "pass", "--strategy", "fsdp")
    assert again.wait(60) == 0, again.stderr
    assert events(launch, "end")[-1]["ending"] == "completed"


def test_a_killed_rank_leaves_a_save_that_the_next_start_drops(launch):
    kill = "number == 6 and tell(signal.SIGSTOP); number == 10 and os.kill(os.getpid(), 9)"
    launched = run_script(launch, kill, "--strategy", "ddp")
    assert launched.wait(60) == 137
    assert [event["step"] for event in events(launch, "saved")] == [4]
    again = run_script(launch, "pass", "--strategy", "ddp")
    assert again.wait(60) == 0, again.stderr
    assert events(launch, "start")[-1]["step"] == 4
    assert steps(launch) == [16, 12, 8, 4]
