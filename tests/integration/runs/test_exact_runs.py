"""With --exact: not one bit depends on the number of ranks."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher.commands.compare import first_difference

pytestmark = pytest.mark.timeout(240)
WORKERS = Path(__file__).parents[1] / "workers"
WORKER = str(WORKERS / "exact_worker.py")


MODELS = ("Awkward", "Normed", "Blocked", "Scaled")
NATIVE = ("ddp", "fsdp", "hybrid", "accelerate")


def weights(
    launch: Callable[..., Any],
    out: Path,
    ranks: int,
    strategies: Sequence[str],
    models: Sequence[str] = MODELS,
    precisions: Sequence[str] = ("fp32", "bf16"),
) -> dict[str, Any]:
    """The final weights of each model under each strategy on so many ranks."""
    what = (",".join(names) for names in (strategies, models, precisions))
    launched = launch("--nproc-per-node", str(ranks), WORKER, str(out), *what)
    assert launched.wait(200) == 0, launched.stderr
    found = {f.name.rpartition("-")[0]: load_file(f) for f in out.glob(f"*-{ranks}.safetensors")}
    assert len(found) == len(strategies) * len(models) * len(precisions)
    return found


def unequal(truth: dict[str, Any], found: dict[str, Any]) -> dict[str, list[str]]:
    """By case the tensors that differ from the truth; in fp32 ddp is that of every strategy."""
    wrong: dict[str, list[str]] = {}
    for case, tensors in found.items():
        model, precision, _ = case.split("-")
        known = truth[f"{model}-{precision}-ddp" if precision == "fp32" else case]
        assert known.keys() == tensors.keys()
        names = [name for name, one in tensors.items() if not torch.equal(known[name], one)]
        if names:
            wrong[case] = names
    return wrong


def records(run: Any) -> dict[int, dict[str, Any]]:
    """What was recorded of each step."""
    return {record["step"]: record for record in run.records("metrics.jsonl")}


@pytest.mark.parametrize("ranks", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))])
def test_models_have_the_same_bits_on_any_number_of_ranks(
    ranks: int, launch: Callable[..., Any], tmp_path: Path
) -> None:
    """Accumulation, masks, clipping, dropout, norms, penalties, averages, tied parameters."""
    one, several = (weights(launch, tmp_path, n, ("ddp", "fsdp")) for n in (1, ranks))
    assert unequal(one, several) == {}


@pytest.mark.parametrize(
    "ranks", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 4))]
)
def test_accelerate_and_hybrid_sharding_have_the_same_bits(
    ranks: int, launch: Callable[..., Any], tmp_path: Path
) -> None:
    models = ("Awkward", "Blocked", "Scaled")
    one = weights(launch, tmp_path, 1, NATIVE, models)
    assert unequal(one, weights(launch, tmp_path, ranks, ("hybrid", "accelerate"), models)) == {}


def test_a_preempted_run_resumes_on_other_ranks_with_the_same_bits(
    launch: Callable[..., Any], run: Any, small: str, tmp_path: Path
) -> None:
    to = ("--exact", "--run-dir", str(run.path), small, "--epochs", "4")
    first = launch("--nproc-per-node", "2", "--strategy", "ddp", *to, "--pause", "0.1")
    end = time.monotonic() + 60
    while run.last_step() < 4:
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(60) == 75, first.stderr
    second = launch(*to)
    assert second.wait(90) == 0, second.stderr

    other = run.__class__(tmp_path / "other")
    whole = launch("--exact", "--run-dir", str(other.path), small, "--epochs", "4")
    assert whole.wait(90) == 0, whole.stderr
    assert run.difference(other) == 0.0
    ours, undisturbed = records(run), records(other)
    assert first_difference(ours, undisturbed) is None
    assert undisturbed.keys() <= ours.keys()  # and the step at which it was saved
    digests = {step for step, one in ours.items() if "weights_digest" in one}
    assert digests >= {run.events("start")[1]["step"], max(ours)}
    assert digests & {step for step, one in undisturbed.items() if "weights_digest" in one}


def test_a_strategy_that_cannot_be_exact_is_refused(
    launch: Callable[..., Any], run: Any, small: str
) -> None:
    launched = launch("--exact", "--strategy", "zero1", "--run-dir", str(run.path), small)
    assert launched.wait(60) == 2
    assert "exact=True cannot be done by strategy=zero1" in launched.stderr
    assert "--strategy single or ddp or fsdp" in launched.stderr
    assert run.events("start") == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["gpt2", "t5", "vit"])
def test_models_of_transformers_over_eighty_steps(
    kind: str, launch: Callable[..., Any], run: Any, tmp_path: Path
) -> None:
    """T5 uses its embedding three times, whose gradients torch adds in another order under fsdp."""
    pytest.importorskip("transformers")
    truth: dict[bool, Any] = {}
    for strategy, ranks in (("single", 1), ("ddp", 2), ("fsdp", 1), ("fsdp", 3)):
        seen = run.__class__(tmp_path / f"{strategy}-{ranks}")
        launched = launch(
            *("--strategy", strategy, "--nproc-per-node", str(ranks)),
            *("--run-dir", str(seen.path), str(WORKERS / "exact_transformers.py"), kind),
        )
        assert launched.wait(200) == 0, launched.stderr
        first = truth.setdefault(strategy == "fsdp", seen)
        assert seen.difference(first) == 0.0
        assert records(seen) == records(first)
        assert len(records(seen)) == 80
