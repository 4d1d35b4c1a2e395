"""All that optimizers keep comes back in a run; what cannot be cut is refused before step 0."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

WORKER = str(Path(__file__).parents[1] / "workers" / "optimizer_worker.py")
ALONE = ("single", "single+single", "fsdp+zero1", "zero3+zero3", "fsdp+single")
TOGETHER = (
    "ddp",
    "ddp+ddp",
    "fsdp+fsdp",
    "ddp+fsdp",
    "zero1+zero1",
    "zero2+ddp",
    "zero3+fsdp",
    "ddp+zero2",
)
# One start under each strategy, of these.
SHORT = ((1, ("single",)), (2, ("ddp+zero2", "zero3+fsdp")))
MOST_APART = 2e-6


@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    "starts",
    [
        pytest.param(SHORT, id="short"),
        pytest.param(((1, ALONE), (2, TOGETHER)), id="all", marks=pytest.mark.slow),
    ],
)
def test_what_optimizers_keep_comes_back_under_every_strategy(
    starts: tuple[tuple[int, tuple[str, ...]], ...], launch: Callable[..., Any], tmp_path: Path
) -> None:
    for world_size, named in starts:
        launched = launch(
            "--nproc-per-node", str(world_size), WORKER, str(tmp_path), ",".join(named)
        )
        assert launched.wait(200) == 0, launched.stderr
    for case in ("checkpointer", "noisy", "factored", "matrices"):
        truth = load_file(tmp_path / f"{case}-single-1.safetensors")
        for world_size, named in starts:
            for one in named:
                file = tmp_path / f"{case}-{one}-{world_size}"
                if is_refused(case, one):
                    _, told = json.loads(file.with_suffix(".json").read_text())
                    assert "gives another result if parameters are split" in told, one
                    assert "Use --strategy ddp (single on one rank)" in told
                    continue
                found = load_file(file.with_suffix(".safetensors"))
                apart = max(float((found[k] - truth[k]).abs().max()) for k in truth)
                assert apart <= MOST_APART, (case, one, world_size)


def is_refused(case: str, named: str) -> bool:
    return case == "noisy" and not set(named.split("+")) <= {"single", "ddp"}


SCRIPT = """
    import sys, torch
    from torch.utils.data import TensorDataset
    from launcher import Run

    class Noisy(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.add_(torch.randn_like(p))
            return super().step()

    def main(run):
        x = torch.randn(16, 4)
        kind = torch.optim.Muon if sys.argv[1:] == ["muon"] else Noisy
        job = run.prepare(
            model=lambda: torch.nn.Linear(4, 4, bias=False),
            optimizer=lambda parameters: kind(parameters, lr=0.01),
            train=TensorDataset(x, x), global_batch=8, micro_batch=4, steps=4, track=[],
        )
        for step in job:
            for a, b in step:
                step.backward((job.model(a) - b).square().sum(), count=len(a))
        print("done", flush=True)

    if __name__ == "__main__":
        Run.start(main)
"""


def test_what_cannot_be_cut_is_refused_on_one_rank_too_and_the_advice_works(
    launch: Callable[..., Any],
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    refused = launch("--strategy", "zero2", "--run-dir", "run", script)
    assert refused.wait() == 2
    assert "Noisy gives another result if parameters are split" in refused.stderr
    assert "Use --strategy ddp (single on one rank)" in refused.stderr
    assert "Traceback" not in refused.stderr
    advised = (("single", "1"), ("ddp", "2"))
    for strategy, ranks in advised:
        command = ("--strategy", strategy, "--nproc-per-node", ranks, "--run-dir", f"run-{ranks}")
        done = launch(*command, script)
        assert done.wait() == 0, done.stderr
        assert "done" in done.stdout


def test_muon_steps_whole_matrices_and_the_start_says_so(launch: Callable[..., Any]) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    command = ("--strategy", "fsdp", "--nproc-per-node", "2", "--run-dir", "run", script, "muon")
    done = launch(*command)
    assert done.wait() == 0, done.stderr
    assert "Muon steps 1 parameter whole, each on one rank" in done.stdout
    assert "done" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_optimizers_of_torch_are_the_same_or_refused(tmp_path: Path) -> None:
    import subprocess

    sweep = Path(__file__).parents[3] / "scripts" / "sweep_optimizers.py"
    command = [sys.executable, str(sweep), "--libraries", "torch"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "A third outcome: none." in done.stdout
    assert "| torch.AdamW | 0.0e+00 " in done.stdout
