"""The pages for people, and the code in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]
BY_NAME = {page.name: page for page in PAGES}
DATA = """
import torch
import torch.nn.functional as F
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
    out = model(x)
    return {"loss": F.cross_entropy(out, y, reduction="none"), "accuracy": out.argmax(-1) == y}
"""
"""What the pages leave to the reader: a model, a data set and a measure."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[str]:
    """Lines of code that begin with the command, comments and columns of explanation cut off."""
    prose_free = re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL)
    start = r"(?:    |)(?:\$ )?((?:exec )?(?:[A-Z_]+=\S+ )?relaunch .*)"
    lines = re.findall(f"^{start}$", prose_free, re.MULTILINE)
    lines += re.findall(r"`(relaunch [^`]*\.py[^`]*)`", prose_free)
    # "RUN [STEP ...]": what stands in brackets may be left out.
    told = [re.sub(r" \[[^]]*\]", "", re.split(r"\s{2,}|\s#", line)[0]) for line in lines]
    return [line.removeprefix("exec ") for line in told if "..." not in line]
