"""A script's own loop with Resumable: left at a notice, resumed, compared with undisturbed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.run_folder.lines.fields import is_whole_event

pytestmark = pytest.mark.timeout(200)

SCRIPT = str(Path(__file__).parents[1] / "workers" / "own_loop.py")
LAST = 15
SLOW = pytest.mark.slow


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


def alone(python: Callable[..., Any], cwd: Path, *options: str) -> Any:
    return python(SCRIPT, *options, cwd=cwd)


@pytest.fixture(scope="module")
def undisturbed(python: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = alone(python, folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "own_loop"


def test_without_a_launcher_it_resumes_bit_for_bit(
    python: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    what = ("--shuffle", "--dropout")
    whole = alone(python, tmp_path / "whole", *what)
    assert whole.returncode == 0, whole.stderr
    left = alone(python, tmp_path, *what, "--notice-at", "7")
    assert left.returncode == 75, left.stderr
    assert "preemption notice (SIGTERM): saved step 9. The same command resumes" in left.stdout
    resumed = alone(python, tmp_path, *what)
    assert resumed.returncode == 0, resumed.stderr
    assert "position in the data (epoch 1, batch 4); random numbers of each rank" in resumed.stdout
    assert "after the loop: 15 steps" in resumed.stdout
    found = losses(tmp_path / "runs" / "own_loop")
    assert found == losses(tmp_path / "whole" / "runs" / "own_loop")
    assert len(found) == LAST


def launched(launch: Any, folder: Path, ranks: int, wrap: str, *options: str) -> Any:
    size = ("--nproc-per-node", str(ranks), "--run-dir", str(folder))
    started = launch(*size, SCRIPT, "--wrap", wrap, *options)
    started.wait(100)
    return started


def test_what_ddp_saved_loads_under_fully_shard(
    launch: Any, undisturbed: Path, tmp_path: Path
) -> None:
    left = launched(launch, tmp_path / "r", 2, "ddp", "--notice-at", "7")
    assert left.wait() == 75, left.stderr
    resumed = launched(launch, tmp_path / "r", 2, "fsdp")
    assert resumed.wait() == 0, resumed.stderr
    assert "changed: strategy: ddp -> fsdp" in resumed.stdout
    assert "not promised" not in resumed.stdout
    assert losses(tmp_path / "r") == pytest.approx(losses(undisturbed), abs=1e-6)


def test_another_number_of_ranks_has_the_same_samples(
    launch: Any, python: Callable[..., Any], undisturbed: Path, tmp_path: Path
) -> None:
    assert alone(python, tmp_path, "--notice-at", "7").returncode == 75
    folder = tmp_path / "runs" / "own_loop"
    resumed = launched(launch, folder, 2, "ddp")
    assert resumed.wait() == 0, resumed.stderr
    assert "which the sampler deals to 2 ranks from sample 32 on" in resumed.stdout
    assert "not promised: random numbers as they were" in resumed.stdout
    assert losses(folder) == pytest.approx(losses(undisturbed), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_two_ranks_resume_bit_for_bit(wrap: str, launch: Any, tmp_path: Path) -> None:
    whole = launched(launch, tmp_path / "whole", 2, wrap, "--dropout")
    assert whole.wait() == 0, whole.stderr
    left = launched(launch, tmp_path / "r", 2, wrap, "--dropout", "--notice-at", "7")
    assert left.wait() == 75, left.stderr
    resumed = launched(launch, tmp_path / "r", 2, wrap, "--dropout")
    assert resumed.wait() == 0, resumed.stderr
    assert losses(tmp_path / "r") == losses(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("fsdp", "plain"), ("plain", "fsdp")])
def test_shards_to_one_process_and_back(
    first: str, second: str, launch: Any, undisturbed: Path, tmp_path: Path
) -> None:
    ranks = {"plain": 1, "fsdp": 2}
    left = launched(launch, tmp_path / "r", ranks[first], first, "--notice-at", "7")
    assert left.wait() == 75, left.stderr
    assert launched(launch, tmp_path / "r", ranks[second], second).wait() == 0
    assert losses(tmp_path / "r") == pytest.approx(losses(undisturbed), abs=1e-6)


def test_a_call_left_out_on_one_rank_is_named(launch: Any, tmp_path: Path) -> None:
    parted = launched(launch, tmp_path / "r", 2, "ddp", "--wrong", "missing")
    assert parted.wait() == 1
    assert "rank 1 went on to batch 5 of this start after 2 calls of run.step" in parted.stderr
    assert "rank 0 waits in run.step (own_loop.py:" in parted.stderr
    assert "for a call that belongs to batch 3" in parted.stderr


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        pytest.param("loader", "loader= is a generator, which cannot report", marks=SLOW),
        pytest.param("scheduler", "schedulers[1], a object, has no state_dict()", marks=SLOW),
        ("optimizer", "holds 2 of 2 parameters that are not the model's"),
        ("second", "this script has had a Resumable in"),
    ],
)
def test_what_cannot_work_is_a_sentence(
    wrong: str, sentence: str, python: Callable[..., Any], tmp_path: Path
) -> None:
    refused = alone(python, tmp_path, "--wrong", wrong)
    assert refused.returncode == 2
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr


MISTAKEN_AT_ITS_RESUME = """
import os, signal, torch
from launcher import Resumable

model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=2)
with Resumable(model=model, optimizer=optimizer, loader=loader) as run:
    if run.steps_done:
        next(run.batches(epochs=2, steps=8))
    for _, batch in run.batches(epochs=2):
        loss = model(batch).mean()
        loss.backward()
        optimizer.step()
        run.step(loss)
        if run.steps_done == 2:
            os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_mistake_before_the_first_step_of_a_resumed_start_is_one_before_anything(
    python: Callable[..., Any], tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(MISTAKEN_AT_ITS_RESUME)
    left = python(str(script), cwd=tmp_path)
    assert left.returncode == 75, left.stderr
    refused = python(str(script), cwd=tmp_path)
    assert "run.batches needs either epochs= or steps=" in refused.stderr
    assert refused.returncode == 2


def test_another_model_than_the_checkpoints_is_refused(
    python: Callable[..., Any], undisturbed: Path
) -> None:
    before = losses(undisturbed)
    refused = alone(python, undisturbed.parents[1], "--wrong", "model")
    assert refused.returncode == 2
    assert "0.weight (fp32) is (16, 6) in the model and (12, 6) in step-00000015" in refused.stderr
    assert losses(undisturbed) == before


def test_it_stops_early_and_is_over_then(python: Callable[..., Any], tmp_path: Path) -> None:
    what = ("--evaluate", "--epochs", "6")
    stopped = alone(python, tmp_path, *what)
    assert stopped.returncode == 0, stopped.stderr
    assert "finished at step 20: early stop, val/loss did not improve in 2" in stopped.stdout
    assert "the model holds its best weights, of step 10" in stopped.stdout
    again = alone(python, tmp_path, *what)
    assert "this run had finished already: early stop, val/loss did not improve" in again.stdout
    run = tmp_path / "runs" / "own_loop"
    assert len(losses(run)) == 20
    over = json.loads((run / "events.jsonl").read_text().splitlines()[-1])
    assert over["event"] == "already over"
    assert is_whole_event(over), over


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["zero1", "zero2", "zero3"])
def test_an_engine_of_deepspeed_resumes_bit_for_bit_and_under_fully_shard(
    stage: str, launch: Any, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    assert launched(launch, tmp_path / "whole", 2, stage).wait() == 0
    for wrap in (stage, "fsdp"):
        folder = tmp_path / wrap
        left = launched(launch, folder, 2, stage, "--notice-at", "7")
        assert left.wait() == 75, left.stderr
        resumed = launched(launch, folder, 2, wrap)
        assert resumed.wait() == 0, resumed.stderr
        tolerance = 0.0 if wrap == stage else 1e-6
        assert losses(folder) == pytest.approx(losses(tmp_path / "whole"), abs=tolerance)
        (launch.folder / "left").unlink()


@pytest.mark.slow
def test_what_ddp_saved_loads_into_an_engine(
    launch: Any, undisturbed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    left = launched(launch, tmp_path / "r", 2, "ddp", "--notice-at", "7")
    assert left.wait() == 75, left.stderr
    assert launched(launch, tmp_path / "r", 2, "zero2").wait() == 0
    assert losses(tmp_path / "r") == pytest.approx(losses(undisturbed), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("framework", ["accelerate", "fabric"])
def test_what_a_framework_has_prepared_resumes_bit_for_bit(
    framework: str, ranks: int, launch: Any, tmp_path: Path
) -> None:
    pytest.importorskip("lightning" if framework == "fabric" else framework)
    script = SCRIPT.replace("own_loop", f"own_loop_{framework}")
    for folder, *options in (("whole",), ("r", "3"), ("r",)):
        where = ("--run-dir", str(tmp_path / folder))
        started = launch("--nproc-per-node", str(ranks), *where, script, *options)
        assert started.wait(100) == (75 if options else 0), started.stderr
    assert losses(tmp_path / "r") == losses(tmp_path / "whole")
    per_rank = {"accelerate": 18, "fabric": 36}[framework]
    assert len(losses(tmp_path / "r")) == per_rank // ranks
