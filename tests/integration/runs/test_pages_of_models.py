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


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) == 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_the_page(name: str, launch: Callable[..., Any]) -> None:
    head, rest = SCRIPTS[name].split("from launcher import Run\n", 1)
    script = launch.script(f"{head}from launcher import Run\n{doc_pages.DATA}{rest}")  # type: ignore[attr-defined]
    teacher = torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 3)
    ).state_dict()
    save_file(teacher, launch.folder / "teacher.safetensors")  # type: ignore[attr-defined]
    launched = launch("--nproc-per-node", "2", "--strategy", "ddp", script)
    assert launched.wait(100) == 0, launched.stderr
