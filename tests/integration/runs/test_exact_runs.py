"""With --exact: not one bit depends on the number of ranks."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher.commands.compare import first_difference

pytestmark = pytest.mark.timeout(240)
WORKERS = Path(__file__).parents[1] / "workers"
WORKER = str(WORKERS / "exact_worker.py")
LONGEST_S = 3600.0
"""A test's own limit ends it before."""


MODELS = ("Awkward", "Normed", "Blocked", "Scaled")
USES = (
    "Crossed", "Recomputed", "Threefold", "Tied", "Repeated", "Contained", "Filled", "InPlace",
    "Parts",
)  # fmt: skip
ZERO = ("zero1", "zero2", "zero3")
EVERY = ("ddp", "fsdp", "hybrid", *ZERO, "accelerate")


def weights(
    launch: Callable[..., Any],
    out: Path,
    ranks: int,
    strategies: Sequence[str],
    models: Sequence[str],
    *more: str,
    precisions: Sequence[str] = ("fp32", "bf16"),
) -> dict[str, Any]:
    """The final weights and moments of each model under each strategy on so many ranks."""
    what = (",".join(names) for names in (strategies, models, precisions))
    launched = launch("--nproc-per-node", str(ranks), WORKER, str(out), *what, *more)
    assert launched.wait(LONGEST_S) == 0, launched.stderr
    return {
        case: load_file(out / f"{case}-{ranks}.safetensors")
        for case in map("-".join, product(models, precisions, strategies))
    }


def unequal(truth: dict[str, Any], found: dict[str, Any]) -> dict[str, list[str]]:
    """By case the tensors that differ from the truth, which in fp32 is that of ddp."""
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
    one, several = (weights(launch, tmp_path, n, ("ddp", "fsdp"), MODELS) for n in (1, ranks))
    assert unequal(one, several) == {}


@pytest.mark.parametrize("strategies", [("hybrid", "accelerate"), ZERO])
def test_other_strategies_have_the_bits_of_one_rank(
    strategies: Sequence[str], launch: Callable[..., Any], tmp_path: Path
) -> None:
    one = weights(launch, tmp_path, 1, ("ddp",), ("Awkward",), "4", precisions=("fp32",))
    two = weights(launch, tmp_path, 2, strategies, ("Awkward",), "4", precisions=("fp32",))
    assert unequal(one, two) == {}


def test_each_use_of_a_tensor_is_added_up_alike(launch: Callable[..., Any], tmp_path: Path) -> None:
    """Inputs of several modules, used several times in each; tied parameters; repeated layers."""
    one = weights(launch, tmp_path, 1, ("ddp",), USES, "3", precisions=("fp32",))
    two = weights(launch, tmp_path, 2, ("fsdp", "zero3"), USES, "3", precisions=("fp32",))
    assert unequal(one, two) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_use_under_every_strategy(
    ranks: int, launch: Callable[..., Any], tmp_path: Path
) -> None:
    truth = weights(launch, tmp_path, 1, ("ddp",), USES, precisions=("fp32",))
    (out := tmp_path / "every").mkdir()
    strategies = EVERY if ranks > 1 else ("single", *EVERY)
    found = weights(launch, out, ranks, strategies, USES, precisions=("fp32",))
    assert unequal(truth, found) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", ["hybrid", *ZERO, "accelerate"])
def test_other_strategies_on_one_to_four_ranks(
    strategy: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    truth = weights(launch, tmp_path, 1, ("ddp",), MODELS, precisions=("fp32",))
    for ranks in (1, 2, 3, 4):
        found = weights(launch, tmp_path, ranks, (strategy,), MODELS, precisions=("fp32",))
        # DeepSpeed rounds the statistics of BatchNorm in bf16, so it is refused there.
        plain = ("Awkward", "Scaled")
        low = weights(launch, tmp_path, ranks, (strategy,), plain, precisions=("bf16",))
        truth = low | truth
        assert unequal(truth, found | low) == {}


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("model", ["Digits", "Bytes", "ResNet", "GPT2", "T5", "ViT"])
def test_two_hundred_steps_under_every_strategy_on_one_to_four_ranks(
    model: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    if model in ("GPT2", "T5", "ViT"):
        pytest.importorskip("transformers")
    given: Any = (model,), "200"
    truth = weights(launch, tmp_path, 1, ("ddp",), *given, precisions=("fp32",))
    alone = weights(launch, tmp_path, 1, ("single",), *given, precisions=("fp32",))
    assert unequal(truth, alone) == {}
    (out := tmp_path / "every").mkdir()  # of its own: a run of the same folder would be resumed
    for ranks in (1, 2, 3, 4):
        found = weights(launch, out, ranks, EVERY, *given, precisions=("fp32",))
        assert unequal(truth, found) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["Awkward", "Bytes"])
def test_ten_preemptions_with_other_ranks_and_strategies(
    model: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    def go_on(strategy: str, ranks: int, steps: int, folder: str) -> Any:
        given = (strategy,), (model,), str(steps), folder
        found = weights(launch, tmp_path, ranks, *given, precisions=("fp32",))
        return next(iter(found.values()))

    attempts = (
        ("ddp", 2), ("zero2", 3), ("fsdp", 4), ("single", 1), ("zero3", 2), ("hybrid", 2),
        ("accelerate", 3), ("zero1", 4), ("zero3", 1), ("fsdp", 3), ("zero2", 2),
    )  # fmt: skip
    for strategy, ranks in attempts:
        final = go_on(strategy, ranks, 4, "moved")
    truth = go_on("single", 1, 4 * len(attempts), "undisturbed")
    assert truth.keys() == final.keys()
    assert [name for name in truth if not torch.equal(truth[name], final[name])] == []


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_a_preempted_run_resumes_on_other_ranks_with_the_same_bits(
    strategy: str, launch: Callable[..., Any], run: Any, small: str, tmp_path: Path
) -> None:
    to = ("--exact", "--run-dir", str(run.path), small, "--epochs", "4")
    first = launch("--nproc-per-node", "2", "--strategy", strategy, *to, "--pause", "0.1")
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


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["gpt2", "t5", "vit"])
def test_models_of_transformers_over_eighty_steps(
    kind: str, launch: Callable[..., Any], run: Any, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    truth: list[Any] = []
    for strategy, ranks in (("single", 1), ("ddp", 2), ("fsdp", 1), ("fsdp", 3)):
        seen = run.__class__(tmp_path / f"{strategy}-{ranks}")
        launched = launch(
            *("--strategy", strategy, "--nproc-per-node", str(ranks)),
            *("--run-dir", str(seen.path), str(WORKERS / "exact_transformers.py"), kind),
        )
        assert launched.wait(200) == 0, launched.stderr
        truth.append(seen)
        assert seen.difference(truth[0]) == 0.0
        assert records(seen) == records(truth[0])
        assert len(records(seen)) == 80
