"""The script in the README is a script that runs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[3] / "README.md"
MISSING = """
from torch import nn
from torch.utils.data import TensorDataset

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3))

def my_dataset():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 8, generator=generator)
    return TensorDataset(x, x[:, :3].argmax(-1))
"""


@pytest.mark.timeout(120)
def test_the_readmes_script(launch: Callable[..., Any], run: Any, tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    script = tmp_path / "train.py"
    head, definitions = block.split("\ndef measure", 1)
    script.write_text(f"{head}\n{MISSING}\ndef measure{definitions}")
    launched = launch(
        "--nproc-per-node", "2", "--strategy", "zero2", "--run-dir", str(run.path), str(script)
    )
    assert launched.wait(100) == 0, launched.stderr
    assert run.events("test")[0]["test/accuracy"] > 0.8
    assert (run.path / "export" / "model.safetensors").exists()
