"""What a mistake gets: one sentence, exit code 2, and nothing lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKERS = Path(__file__).parents[1] / "workers"
pytestmark = pytest.mark.timeout(120)


def test_a_global_batch_that_no_micro_batch_divides(
    launch: Callable[..., Any], run: Any, small: str
) -> None:
    launched = launch(
        "--nproc-per-node", "2", "--run-dir", str(run.path), small, "--global-batch", "22"
    )
    assert launched.wait(60) == 2
    (sentence,) = launched.said()
    assert "global_batch=22" in sentence
    assert "micro_batch=4" in sentence
    assert "20 or 24" in sentence
    assert "Traceback" not in launched.stderr
    assert run.steps_on_disk() == []


def test_a_checkpoint_of_another_model_or_run(
    launch: Callable[..., Any], run: Any, small: str
) -> None:
    to = ("--run-dir", str(run.path), small, "--epochs", "2")
    assert launch(*to).wait(60) == 0
    before = run.state()

    other = launch("--nproc-per-node", "2", "--strategy", "fsdp", *to, "--other-model")
    assert other.wait(60) == 2
    text = other.stderr
    assert "norm.weight" in text
    assert "(38,)" in text
    assert "(37,)" in text
    assert "extra.weight" in text
    assert "Traceback" not in text

    batch = launch(*to, "--global-batch", "24")
    assert batch.wait(60) == 2
    assert "global_batch=20" in batch.stderr
    assert "global_batch=24" in batch.stderr
    after = run.state()
    assert all(bool((after[k] == before[k]).all()) for k in before)


def test_a_loop_that_leaves_a_step(launch: Callable[..., Any], run: Any, small: str) -> None:
    launched = launch("--run-dir", str(run.path), small, "--leave-step-early")
    assert launched.wait(60) == 2
    assert "left step 0 after 1 of 5 micro-batches" in launched.stderr


def test_the_users_own_exception_is_shown_as_it_is(
    launch: Callable[..., Any], run: Any, small: str
) -> None:
    launched = launch("--nproc-per-node", "2", "--run-dir", str(run.path), small, "--fail-at", "6")
    assert launched.wait(60) == 1
    assert "ValueError: the user's own mistake" in launched.stderr
    assert any("rank 1" in line for line in launched.said())


def test_a_run_folder_that_cannot_be_written(
    python: Callable[..., Any], tmp_path: Any, small: str
) -> None:
    (tmp_path / "runs").write_text("a file where a folder is needed")
    done = python(small, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "--run-dir" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        # Accelerate 1.15 makes N independent trainings of the one, and DDP of the other.
        ("alone", "of 1, and the run's rank is"),
        ("fsdp", "asked for FSDP and became MULTI_CPU on 2"),
    ],
)
def test_an_accelerator_that_would_do_something_else(
    kind: str, words: str, launch: Callable[..., Any], run: Any
) -> None:
    to = ("--nproc-per-node", "2", "--strategy", "accelerate", "--run-dir", str(run.path))
    launched = launch(*to, str(WORKERS / "accelerate_worker.py"), kind)
    assert launched.wait(90) == 2, launched.stderr
    assert words in launched.stderr
    assert "Traceback" not in launched.stderr
    assert run.steps_on_disk() == []
