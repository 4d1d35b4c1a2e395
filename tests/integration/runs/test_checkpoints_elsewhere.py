"""Runs of two ranks whose checkpoints go to a URL: killed, damaged, continued."""

import json
import signal
from pathlib import Path

import pytest

from checkpointing import CheckpointStore, place_at

pytestmark = pytest.mark.timeout(180)

# Saves begin after steps 4, 8, 12, ...
SCRIPT = """
from launcher import Run
from linear_run import prepare, train, wait_for_save, writers

def main(run):
    job = prepare(run, epochs=int(sys.argv[1]), keep=2)
    for step in job:
        train(job, step)
        if step.number == 4:
            wait_for_save(job, 4)
        if rank == 1:
            at_step(step.number)

def at_step(number):
    {AT_STEP}

Run.start(main)
"""


def start(launch, url, *options, at_step="pass", epochs=2, run_dir="run"):
    script = launch.script(SCRIPT.replace("{AT_STEP}", at_step))
    place = ("--checkpoints", url) if url else ()
    words = ("--nproc-per-node", "2", "--run-dir", run_dir, *place, *options)
    return launch(*words, script, str(epochs))


def store_at(url):
    place = place_at(url) / "checkpoints"
    return CheckpointStore(place.folder, place.files)


def events(launch, kind):
    lines = (Path(launch.folder) / "run" / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def tensors(store):
    with store.open(store.steps()[0]) as reader:
        return {
            s.name: bytes(reader.read_raw(s.fqn, s.key, 0, s.numel))
            for s in reader.manifest.specs()
        }


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("zero2", marks=pytest.mark.slow)])
def test_a_run_at_a_url_is_killed_and_goes_on(launch, strategy):
    url = f"file://{launch.folder}/bucket/run"
    # The save of step 8 is in flight, its writer stopped, when the rank dies.
    kill = (
        "number == 6 and [os.kill(pid, signal.SIGSTOP) for pid in writers()]; "
        "number == 9 and os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = start(launch, url, "--strategy", strategy, at_step=kill)
    assert killed.wait(80) == 128 + signal.SIGKILL, killed.stderr
    store = store_at(url)
    assert store.steps() == [4]
    assert store.publishing.leftovers() != []
    again = start(launch, url, "--strategy", strategy)
    assert again.wait(80) == 0, again.stderr
    assert "resuming from step 4" in again.stdout
    assert store.steps() == [16, 12, 4]  # what it went on from stays
    assert [store.verify(step) for step in store.steps()] == [[], [], []]
    assert store.publishing.leftovers() == []
    assert not (Path(launch.folder) / "run" / "checkpoints").exists()
    undisturbed = f"file://{launch.folder}/bucket/other"
    other = start(launch, undisturbed, "--strategy", strategy, run_dir="other")
    assert other.wait(80) == 0, other.stderr
    assert tensors(store_at(undisturbed)) == tensors(store)


def test_a_damaged_checkpoint_at_a_url_is_set_aside_and_the_one_before_used(launch):
    url = f"file://{launch.folder}/bucket/run"
    first = start(launch, url)
    assert first.wait(80) == 0, first.stderr
    store = store_at(url)
    assert store.steps() == [16, 12]
    shard = next(Path(launch.folder, "bucket/run/checkpoints/step-00000016").glob("r00001-*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    again = start(launch, url, epochs=3)
    assert again.wait(80) == 0, again.stderr
    assert "step-00000016 is not usable" in again.stderr
    assert shard.name in again.stderr
    assert "resuming from step 12" in again.stdout
    assert store.steps()[0] == 24
    assert len(store.publishing.refused()) == 1
    assert shard.exists()


def test_the_same_run_looks_for_its_checkpoints_where_they_are(launch):
    url = f"file://{launch.folder}/bucket/run"
    assert start(launch, url).wait(80) == 0
    elsewhere = start(launch, None, epochs=3)
    assert elsewhere.wait(80) == 2
    assert f"pass --checkpoints {url}" in elsewhere.stderr
    assert store_at(url).steps() == [16, 12]


def test_a_place_that_is_none_is_told_before_anything_starts(launch):
    refused = start(launch, "nonsense://bucket/run")
    assert refused.wait(60) == 2
    assert "--checkpoints nonsense://bucket/run" in refused.stderr
    lost = start(launch, "memory://run")
    assert lost.wait(60) == 2
    assert "ends with the process" in lost.stderr


def test_a_folder_elsewhere_holds_the_checkpoints(launch):
    done = start(launch, "fast-disk")
    assert done.wait(80) == 0, done.stderr
    assert store_at(f"{launch.folder}/fast-disk").steps() == [16, 12]
    told = json.loads((Path(launch.folder) / "run" / "run.json").read_text())
    assert told["checkpoints"] == f"{launch.folder}/fast-disk"


# Every second step brings a better evaluation, and looking through the checkpoints takes long.
SLOW_PRUNING = """
import threading, time
from launcher import Run
from launcher.training.saving import pruning
from linear_run import prepare, samples, train
from strategies import EarlyStopping

prune = pruning.Pruner._prune

def slowly(self, current_best):
    found = self._checkpoints.steps(), self._best.steps()
    time.sleep(0.3)
    assert (self._checkpoints.steps(), self._best.steps()) == found, "committed meanwhile"
    (rank == 0) and print("aside", threading.current_thread() is not threading.main_thread())
    prune(self, current_best)

pruning.Pruner._prune = slowly

def main(run):
    stop = EarlyStopping("val/loss", patience=99)
    job = prepare(run, epochs=2, keep=2, evaluate_every="2 steps", stop=stop)
    for step in job:
        train(job, step)
        if step.evaluation_due:
            loss = -float(step.number)
            step.evaluate(samples(), lambda model, batch: {"loss": 0 * batch[1].flatten() + loss})
    job.export("best")

Run.start(main)
"""


@pytest.mark.parametrize("is_far", [True, False])
def test_old_checkpoints_go_between_commits_and_no_new_one_is_taken_for_old(launch, is_far):
    place = ("--checkpoints", f"file://{launch.folder}/bucket/run") if is_far else ()
    script = launch.script(SLOW_PRUNING)
    launched = launch("--nproc-per-node", "2", "--run-dir", "run", *place, script)
    assert launched.wait(80) == 0, launched.stderr
    assert launched.stdout.count(f"aside {is_far}") >= 3
    assert f"aside {not is_far}" not in launched.stdout
    assert events(launch, "not deleted") == []
    folder = place_at(place[1]) if is_far else place_at(f"{launch.folder}/run")
    checkpoints, best = (
        CheckpointStore((folder / name).folder, folder.files) for name in ("checkpoints", "best")
    )
    assert checkpoints.steps() == [16, 12]
    assert {16, 12} <= set(best.steps()) <= {16, 14, 12}
    assert [best.verify(step) for step in best.steps()] == [[]] * len(best.steps())
