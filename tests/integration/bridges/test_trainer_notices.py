"""Hugging Face's Trainer on two ranks: a notice at some moment, and the same command again."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from launcher.run_folder.history import read_run

pytest.importorskip("transformers", minversion="5.23")
pytestmark = pytest.mark.timeout(120)
WORKER = Path(__file__).parents[1] / "workers" / "trainer_worker.py"
ACCUMULATED = {
    "notice": [1, "substep", 5],
    "args": {"max_steps": 9, "gradient_accumulation_steps": 2, "save_steps": 4},
}
EVALUATED = {
    "notice": [0, "evaluation", 8],
    "patience": 2,
    "args": {
        "max_steps": 20,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "per_device_eval_batch_size": 1,
        "metric_for_best_model": "eval_loss",
        "load_best_model_at_end": True,
        "save_total_limit": 2,
    },
}
IN_BFLOAT16 = {
    "notice": [0, "step", 4],
    "dtype": "bfloat16",
    "args": {"max_steps": 20, "save_steps": 50, "optim": "adafactor"},
}
"""Adafactor keeps float32 state for such weights, which torch rounds when it is loaded."""
BY_EPOCH = {
    "notice": [1, "step", 12],
    "args": {
        "num_train_epochs": 2,
        "eval_strategy": "epoch",
        "save_strategy": "best",
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    },
}

IN_SECOND_PASS: dict[str, Any] = {
    "notice": [0, "step", 17],
    "draws": True,
    "args": {"max_steps": 22},
}
"""Its 12 steps of a pass are done, and what the data is drawn from is not as at the begin."""


def in_order(strategy: str) -> dict[str, Any]:
    return {
        **IN_SECOND_PASS,
        "args": {**IN_SECOND_PASS["args"], "train_sampling_strategy": strategy},
    }


def told(launched: Any, who: str) -> list[Any]:
    """What one training has printed: (name, step, value), in order."""
    return re.findall(rf"^{who} (\w+) (\d+) (\S+)$", launched.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("given", "left_at"),
    [
        pytest.param(ACCUMULATED, 5, id="accumulated"),
        pytest.param(EVALUATED, 4, id="evaluation"),
        pytest.param(IN_BFLOAT16, 4, id="bfloat16"),
        pytest.param(BY_EPOCH, 12, id="epoch", marks=pytest.mark.slow),
        pytest.param(in_order("group_by_length"), 17, id="grouped"),
        pytest.param(in_order("batch_rebalance"), 17, id="rebalanced", marks=pytest.mark.slow),
        pytest.param(in_order("random"), 17, id="random", marks=pytest.mark.slow),
        pytest.param(
            {**IN_SECOND_PASS, "draws": False, "stream": True},
            17,
            id="stream",
            marks=pytest.mark.slow,
        ),
        *(
            pytest.param(
                {**EVALUATED, "notice": [n % 2, "step", n]}, n, marks=pytest.mark.slow, id=f"at-{n}"
            )
            for n in (2, 3, 6, 7)
        ),
    ],
)
def test_all_ranks_leave_together_and_the_same_command_follows_the_same_curve(
    launch: Any, given: dict[str, Any], left_at: int
) -> None:
    first = launch("--nproc-per-node", "2", str(WORKER), json.dumps(given))
    assert first.wait() == 75, first.stderr
    assert f"saved step {left_at}. The same command resumes the run." in first.stdout
    again = {**given, "notice": None, "plain": True}
    second = launch("--nproc-per-node", "2", str(WORKER), json.dumps(again))
    assert second.wait() == 0, second.stderr
    undisturbed = told(second, "plain")
    assert len(undisturbed) > left_at
    assert told(first, "ours") + told(second, "ours") == undisturbed
    run = read_run(launch.folder / "out")
    assert [a.ending for a in run.attempts] == [
        "preempted",
        "early stop" if given.get("patience") else "completed",
    ]
    assert [a.code for a in run.attempts] == [75, 0]
    assert [a.step for a in run.attempts] == [0, left_at]


@pytest.mark.parametrize(
    ("since", "code", "says"),
    [
        (3, 75, "step 4 could not be saved (checkpoint-4 could not be written by rank 1: OSError:"),
        pytest.param(
            0, 1, "and no checkpoint could be written (checkpoint-4", marks=pytest.mark.slow
        ),
    ],
)
def test_a_save_that_fails_when_leaving_is_a_sentence(
    launch: Any, since: int, code: int, says: str
) -> None:
    args = {"max_steps": 9, "save_steps": 2 if since else 500}
    given = {"notice": [0, "step", 4], "full": [1, since], "args": args}
    left = launch("--nproc-per-node", "2", str(WORKER), json.dumps(given))
    assert left.wait() == code, left.stderr
    assert says in left.stderr
    assert "No space left on device" in left.stderr
    assert "Traceback" not in left.stderr
    assert ("resumes from step 2." in left.stderr) == (code == 75)


@pytest.mark.slow
def test_a_trainer_of_trl_does_so_too(launch: Any) -> None:
    pytest.importorskip("trl", minversion="1.16")
    worker = str(WORKER.with_name("sft_worker.py"))
    first = launch("--nproc-per-node", "2", worker, json.dumps({"notice": 6}))
    assert first.wait() == 75, first.stderr
    second = launch("--nproc-per-node", "2", worker, json.dumps({"plain": True}))
    assert second.wait() == 0, second.stderr
    undisturbed = told(second, "plain")
    assert len(undisturbed) == 10
    assert len(told(first, "ours")) in (6, 7)
    assert told(first, "ours") + told(second, "ours") == undisturbed
