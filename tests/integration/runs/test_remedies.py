"""What the messages about models and losses advise works under every strategy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

WORKER = str(Path(__file__).parents[1] / "workers" / "remedies_worker.py")
ON_TWO = ("ddp", "fsdp", "zero1", "zero2", "zero3", "accelerate")
REMEDIES = {
    "Layers": "compute a layer that is left out too, and multiply its output by 0",
    "Unused": "set requires_grad=False on it in the model",
    "called_once": "call the model once inside its factory",
    "in_fp32": "trainable parameters must be built in torch.float32",
    "sum_times_zero": "with count=0 and loss.sum() * 0 if none counts",
    "mean_times_count": "or pass loss * count",
    "groups": "put such parameters into groups of their own",
}


QUICK = ((1, ("single",)), (2, ("fsdp",)))
WHOLE = ((1, ("single", "fsdp", "zero3")), (2, ON_TWO))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("on", [QUICK, pytest.param(WHOLE, marks=pytest.mark.slow)])
def test_they_give_one_curve(on: Any, launch: Callable[..., Any], tmp_path: Path) -> None:
    for world_size, strategies in on:
        launched = launch(
            "--nproc-per-node", str(world_size), WORKER, str(tmp_path), ",".join(strategies)
        )
        assert launched.wait(290) == 0, launched.stderr
        for strategy in strategies:
            for name in (*REMEDIES, "ByParameters"):
                wanted = load_file(tmp_path / f"{name}-single-1.safetensors")
                found = load_file(tmp_path / f"{name}-{strategy}-{world_size}.safetensors")
                assert found.keys() == wanted.keys()
                worst = max(float((found[k] - wanted[k]).abs().max()) for k in wanted)
                assert worst <= 1e-6, (name, strategy, world_size, worst)


def test_a_share_of_a_parameter_is_no_parameter(launch: Callable[..., Any], tmp_path: Path) -> None:
    script = launch.script(  # type: ignore[attr-defined]
        """
        import torch
        from launcher import Run

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = torch.nn.ModuleList([Layer() for _ in range(2)])

            def forward(self, x):
                return x + self.layers[0](x) + sum(0 * p.sum() for p in self.layers[1].parameters())

        class Layer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = torch.nn.Linear(4, 4)

            def forward(self, x):
                return self.inner(x).tanh()

        def main(run):
            data = torch.utils.data.TensorDataset(torch.randn(16, 4))
            job = run.prepare(model=Net, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), train=data,
                              global_batch=8, micro_batch=4, steps=3, track=[])
            for step in job:
                for (x,) in step:
                    step.backward(job.model(x).square().sum(), count=len(x))

        Run.start(main)
        """
    )
    launched = launch("--nproc-per-node", "2", "--strategy", "zero3", "--run-dir", "run", script)
    assert launched.wait(120) == 2
    assert "uses the parameters of a layer without calling it" in launched.stderr
    assert "multiply its output by 0 to leave it out" in launched.stderr


def test_what_is_followed_is_what_is_said() -> None:
    root = Path(__file__).parents[3]
    source = "".join(
        file.read_text()
        for part in ("strategies", "launcher")
        for file in (root / part).rglob("*.py")
    )
    said = "".join(line.strip().removeprefix("f").strip("\"'") for line in source.splitlines())
    for sentence in REMEDIES.values():
        assert sentence in said, sentence
