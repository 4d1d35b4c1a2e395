"""Whatever is called on job.model trains as under `single`; what goes beside the engine does not
train wrongly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SLOW = pytest.mark.slow

WORKER = str(Path(__file__).parents[1] / "workers" / "calls_worker.py")
GENERATE = str(Path(__file__).parents[1] / "workers" / "generate_worker.py")
SHARDED = ("ddp", "fsdp", "zero1", "zero2", "zero3", "accelerate")
SAME = ("module", "forward by name", "parts", "layers", "deep parts", "a part from a method")

SCRIPT = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.first(x))

torch.manual_seed(0)
net = Net()

def main(run):
    x = torch.randn(16, 4)
    job = run.prepare(
        model=lambda: net, optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        train=TensorDataset(x, x), global_batch=8, micro_batch=2, epochs=3,
    )
    for step in job:
        for x, y in step:
            beside = BESIDE and step.number == int(os.environ["STEP"])
            out = net.head(net.first(x)) if beside else job.model(x)
            step.backward((out - y).square().sum(), count=len(y))

Run.start(main)
"""


def told_by(
    launch: Callable[..., Any],
    folder: Path,
    num_ranks: int,
    strategies: str,
    *words: str,
    worker: str = WORKER,
) -> dict[str, Any]:
    """What rank 0 says of each loss; the other ranks say the same."""
    folder.mkdir()
    launched = launch("--nproc-per-node", str(num_ranks), worker, str(folder), strategies, *words)
    assert launched.wait(260) == 0, launched.stderr
    told = [json.loads((folder / f"told-{rank}.json").read_text()) for rank in range(num_ranks)]
    for other in told[1:]:
        assert other.keys() == told[0].keys()
    found: dict[str, Any] = told[0]
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("num_ranks", "strategies"),
    [
        pytest.param(1, "ddp,fsdp,zero2,zero3", marks=SLOW),
        (2, "ddp,fsdp,zero3"),
        pytest.param(2, "zero1,zero2,accelerate", marks=SLOW),
    ],
)
def test_methods_and_parts_train_as_under_single(
    num_ranks: int, strategies: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    base = told_by(launch, tmp_path / "base", 1, "single")
    for what in SAME:
        assert base[f"single {what}"] == pytest.approx(base["single forward"], rel=1e-6)
    found = told_by(launch, tmp_path / "found", num_ranks, strategies)
    for key, value in found.items():
        what = key.partition(" ")[2]
        assert value == pytest.approx(base[f"single {what}"], rel=1e-5), key


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "strategies", ["ddp,fsdp,zero3", pytest.param("accelerate,zero1,zero2", marks=SLOW)]
)
def test_what_goes_beside_the_engine_is_right_or_refused(
    strategies: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    base = told_by(launch, tmp_path / "base", 1, "single", "raw")
    found = told_by(launch, tmp_path / "found", 2, strategies, "raw")
    for key, value in found.items():
        strategy, _, what = key.partition(" ")
        if isinstance(value, str):
            # A weight in the loss is not called: a penalty does what it is for.
            assert "job.model(...)" in value or "penalty=Penalty(...)" in value, key
            assert "not explained" not in value, key
        else:
            assert value == pytest.approx(base[f"single {what}"], rel=1e-5), key
        if what in ("raw parts", "raw forward") and strategy != "fsdp":
            assert "the loss was not computed through job.model" in value
    if strategies == "fsdp":
        assert (
            "gradients of embed.weight, embed.bias came after" in found["fsdp raw embed, gathered"]
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("num_ranks", [pytest.param(1, marks=SLOW), 2])
def test_a_language_model_generates_and_is_trained_on_its_embeddings(
    num_ranks: int, launch: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    base = told_by(launch, tmp_path / "base", 1, "single", worker=GENERATE)["single"]
    strategies = "ddp,fsdp,zero3"
    found = told_by(launch, tmp_path / "found", num_ranks, strategies, worker=GENERATE)
    for strategy in strategies.split(","):
        assert found[strategy]["norms"] == pytest.approx(base["norms"], rel=1e-4), strategy
        assert found[strategy]["found"] == base["found"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", pytest.param("zero3", marks=SLOW)])
def test_a_model_called_beside_the_engine_ends_the_run(
    strategy: str, launch: Callable[..., Any]
) -> None:
    script = launch.script(SCRIPT.replace("BESIDE", "True"))
    launched = launch("--nproc-per-node", "2", "--strategy", strategy, script, env={"STEP": "0"})
    assert launched.wait() == 2
    assert "call job.model(...), a method as in job.model.encode(...)" in launched.stderr
    assert "Traceback" not in launched.stderr


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("zero2", marks=SLOW), "fsdp"])
def test_one_rank_beside_the_engine_is_no_hang(strategy: str, launch: Callable[..., Any]) -> None:
    script = launch.script(SCRIPT.replace("BESIDE", "rank == 1"))
    launched = launch("--nproc-per-node", "2", "--strategy", strategy, script, env={"STEP": "3"})
    assert launched.wait() != 0
    assert "call job.model(...)" in launched.stderr
