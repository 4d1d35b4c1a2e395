"""The scripts of docs/models_and_devices.md and docs/reference.md run as they stand there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import doc_pages

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).parents[3]


SCRIPTS = {
    f"{name}-{number}": block
    for name in ("models_and_devices.md", "reference.md")
    for number, block in enumerate(doc_pages.blocks(doc_pages.BY_NAME[name].read_text(), "python"))
}
DATA = """
from torch import nn
from torch.utils.data import TensorDataset

class Net(nn.Sequential):
    def __init__(self, width=16):
        super().__init__(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 3))

def my_dataset():
    x = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x[:, :3].argmax(-1))

def measure(model, batch):
    x, y = batch
    return {"loss": F.cross_entropy(model(x), y, reduction="none")}

"""


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) == 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_the_page(name: str, launch: Callable[..., Any]) -> None:
    head, rest = SCRIPTS[name].split("from launcher import Run\n", 1)
    script = launch.script(f"{head}from launcher import Run\n{DATA}{rest}")  # type: ignore[attr-defined]
    teacher = torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 3)
    ).state_dict()
    save_file(teacher, launch.folder / "teacher.safetensors")  # type: ignore[attr-defined]
    launched = launch("--nproc-per-node", "2", "--strategy", "ddp", script)
    assert launched.wait(100) == 0, launched.stderr
