"""A file that a script writes by itself is the whole model, or is refused with what writes one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

SCRIPT = """
import copy, io, os, pickle
import torch
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run
from strategies import ConfigError

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        # Larger than what ZeRO-3 keeps whole; with a buffer, which is held in a recomputation.
        self.first, self.head = nn.Linear(24, 4300), nn.Linear(4300, 4)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x):
        return self.head(torch.tanh(self.first(x))) * self.scale

    def written(self):
        return saved(self.state_dict())

    def copied(self):
        return copy.deepcopy(self.first)

def saved(one):
    file = io.BytesIO()
    torch.save(one, file)
    file.seek(0)
    return torch.load(file, weights_only=False)

WAYS = {
    "state": lambda m: saved(m.state_dict()),
    "on the CPU": lambda m: saved({name: value.cpu() for name, value in m.state_dict().items()}),
    "part": lambda m: saved(m.first.state_dict()),
    "detached": lambda m: saved([p.detach().clone() for p in m.parameters()]),
    "list": lambda m: saved([*m.state_dict().values()]),
    "own method": lambda m: m.written(),
    "own copy": lambda m: m.copied(),
    "pickle": lambda m: pickle.loads(pickle.dumps(m.state_dict())),
    "model": lambda m: saved({"epoch": 1, "model": m})["model"],
    "module": lambda m: saved(m.module),
    "pickled model": lambda m: pickle.loads(pickle.dumps(m)),
    "copied model": lambda m: copy.deepcopy(m),
    "module part": lambda m: saved(m.first),
    "listed part": lambda m: saved([*m.children()][0]),
    "copied part": lambda m: copy.deepcopy(dict(m.named_modules())["first"]),
    "parameters": lambda m: saved([*m.parameters()]),
    "named": lambda m: saved(dict(m.named_parameters())),
    "data": lambda m: saved({name: p.data for name, p in m.named_parameters()}),
}

def what_came(way, model):
    try:
        made = way(model)
    except ConfigError as error:
        return str(error)
    if isinstance(made, nn.Module):
        made(torch.ones(2, 24))
        made = made.state_dict()
    made = list(made.values() if isinstance(made, dict) else made)
    return f"written {sum(value.numel() for value in made)}"

def main(run):
    torch.manual_seed(0)
    x = torch.randn(16, 24)
    job = run.prepare(
        model=Net, optimizer=lambda p: torch.optim.SGD(p, lr=0.01),
        train=TensorDataset(x, torch.randn(16, 4)), global_batch=8, micro_batch=2, epochs=1,
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))
        if step.number == 0:
            for name in WAYS:
                print(f"<{name}: {what_came(WAYS[name], job.model)}>", flush=True)
        if os.environ.get("ALONE") and os.environ["RANK"] == "0":
            torch.save(job.model.state_dict(), "model.pt")
    for name in ("state", "model", "parameters"):
        print(f"<after, {name}: {what_came(WAYS[name], job.model)}>", flush=True)
    job.export()

Run.start(main)
"""


def exported(
    launch: Callable[..., Any], tmp_path: Path, num_ranks: int, strategy: str
) -> tuple[Any, list[str]]:
    """Return what the run has exported, and what became of each way on rank 0."""
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    folder = tmp_path / f"{strategy}-{num_ranks}"
    options = ("--strategy", strategy, "--run-dir", str(folder))
    launched = launch("--nproc-per-node", str(num_ranks), *options, script)
    assert launched.wait(110) == 0, launched.stderr
    told = [part.partition(">\n")[0] for part in launched.stdout.split("<")[1:]]
    return load_file(folder / "export" / "model.safetensors"), told


@pytest.mark.parametrize(
    ("num_ranks", "strategy", "is_refused"),
    [
        (2, "fsdp", True),
        (2, "zero2", False),
        pytest.param(1, "fsdp", True, marks=pytest.mark.slow),
        pytest.param(2, "zero3", True, marks=pytest.mark.slow),
        pytest.param(1, "zero3", True, marks=pytest.mark.slow),
        pytest.param(2, "ddp", False, marks=pytest.mark.slow),
        pytest.param(1, "ddp", False, marks=pytest.mark.slow),
        pytest.param(2, "zero1", False, marks=pytest.mark.slow),
        pytest.param(1, "zero2", False, marks=pytest.mark.slow),
    ],
)
def test_shards_are_not_written_and_the_remedy_writes_the_model(
    num_ranks: int,
    strategy: str,
    is_refused: bool,
    launch: Callable[..., Any],
    tmp_path: Path,
) -> None:
    found, told = exported(launch, tmp_path, num_ranks, strategy)
    wanted, of_one_rank = exported(launch, tmp_path, 1, "single")
    assert len(told) == len(of_one_rank) == 21  # of rank 0
    for sentence, undivided in zip(told, of_one_rank, strict=True):
        assert re.fullmatch(r".+: written (\d+)", undivided), undivided
        if is_refused:
            assert "in shards" in sentence, sentence
            assert "job.export()" in sentence
        else:
            assert sentence == undivided
    assert "state: written 124705" in of_one_rank
    assert "parameters: written 124704" in of_one_rank
    assert "module part: written 107500" in of_one_rank
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "scale": (1,),
        "first.weight": (4300, 24),
        "first.bias": (4300,),
        "head.weight": (4, 4300),
        "head.bias": (4,),
    }
    assert all(float((found[name] - wanted[name]).abs().max()) < 1e-6 for name in wanted)


def test_one_rank_that_saves_alone_ends_the_run_with_the_remedy(launch: Callable[..., Any]) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    launched = launch("--nproc-per-node", "2", "--strategy", "fsdp", script, env={"ALONE": "1"})
    assert launched.wait(110) not in (0, 75)
    assert "a tensor of shape (4300, 24) was to be pickled, as torch.save does" in launched.stderr
    assert "job.export() on every rank writes the whole model" in launched.stderr
