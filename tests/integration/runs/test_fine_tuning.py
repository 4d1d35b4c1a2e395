"""The fine-tuning of docs/run_folder.md: interrupted, and on under another strategy."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

PAGE = Path(__file__).parents[3] / "docs" / "run_folder.md"
BEFORE = """
from torch import nn
from torch.utils.data import TensorDataset

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.embed.requires_grad_(False)
        self.backbone = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(torch.relu(self.backbone(torch.relu(self.embed(x)))))

x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
train_data = test_data = TensorDataset(x, x[:, :3].argmax(-1))

def measure(model, batch):
    x, y = batch
    return {"accuracy": model(x).argmax(-1) == y}
"""
LEAVE = """
        if step.number == 9 and run.attempt == 1:
            os.kill(os.getpid(), signal.SIGTERM)
"""
SHAPES = {"embed": (16, 8), "backbone": (16, 16), "head": (3, 16)}


@pytest.mark.timeout(240)
def test_what_is_frozen_stays_and_what_is_unfrozen_moves(
    launch: Callable[..., Any], run: Any
) -> None:
    folder: Path = launch.folder  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(5)
    pretrained = {}
    for name, (rows, columns) in SHAPES.items():
        weight = torch.randn(rows, columns, generator=generator) / columns**0.5
        pretrained |= {f"{name}.weight": weight, f"{name}.bias": torch.zeros(rows)}
    (folder / "pretrained").mkdir()
    save_file(pretrained, folder / "pretrained" / "model.safetensors")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "unfreeze=" in block]
    head, rest = block.split("\n\ndef main", 1)
    looped = rest.replace("    for step in job:\n", f"    for step in job:{LEAVE}", 1)
    assert looped != rest
    script = launch.script(f"{head}\n{BEFORE}\ndef main{looped}")  # type: ignore[attr-defined]
    command = ("--nproc-per-node", "2", "--run-dir", str(run.path))

    first = launch(*command, "--strategy", "fsdp", script)
    assert first.wait(100) == 75, first.stderr
    assert "the run begins with the weights in pretrained/model.safetensors" in first.stdout

    def moved(state: dict[str, torch.Tensor], key: str, layer: str) -> bool:
        name = f"{layer}.weight"
        (found,) = [t for n, t in state.items() if n in (f"{key}/{name}", f"{name}/{key}")]
        return not torch.equal(found.view_as(pretrained[name]), pretrained[name])

    state = run.state()
    assert not moved(state, "param", "embed")
    assert not moved(state, "fp32", "backbone")
    assert moved(state, "fp32", "head")

    other = {**pretrained, "embed.weight": pretrained["embed.weight"] + 1}
    save_file(other, folder / "pretrained" / "model.safetensors")
    refused = launch(*command, "--strategy", "ddp", script)
    assert refused.wait(100) == 2, refused.stderr
    assert "weights=pretrained/model.safetensors holds others: " in refused.stderr
    assert refused.stderr.count("SHA-256") == 2
    assert "Traceback" not in refused.stderr
    save_file(pretrained, folder / "pretrained" / "model.safetensors")

    second = launch(*command, "--strategy", "ddp", script)
    assert second.wait(100) == 0, second.stderr
    state = run.state()
    assert not moved(state, "param", "embed")
    assert moved(state, "fp32", "backbone")
    (test,) = run.events("test")
    assert test["weights"] == "ema"
    assert test["test/accuracy"] > 0.6
    exported = load_file(run.path / "export" / "model.safetensors")
    for layer in ("backbone", "head"):
        found = state[next(n for n in state if n in (f"ema/{layer}.weight", f"{layer}.weight/ema"))]
        assert torch.equal(exported[f"{layer}.weight"].flatten(), found)
    assert torch.equal(exported["embed.weight"], pretrained["embed.weight"])
