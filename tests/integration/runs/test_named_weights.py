"""Checkpoints that name the frozen base in the file of `weights=`: here, elsewhere, and changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpointing import CheckpointStore, Manifest

SCRIPT = """
import os, signal, sys
import torch, torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run
from strategies import EarlyStopping

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(8, 96)
        self.cast = nn.Linear(96, 16)
        self.base.requires_grad_(False)
        self.cast.requires_grad_(False)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(torch.relu(self.cast(torch.relu(self.base(x)))))

def main(run):
    x = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(-1)
    data = TensorDataset(x, y)
    job = run.prepare(
        model=Net, optimizer=lambda p: torch.optim.AdamW(p, lr=0.01), train=data, steps=8,
        global_batch=8, micro_batch=4, save_every="2 steps", evaluate_every="4 steps",
        weights=sys.argv[1], frozen="name", stop=EarlyStopping("val/loss", patience=9),
    )
    for step in job:
        for x, y in step:
            step.backward(F.cross_entropy(job.model(x), y, reduction="sum"), count=len(y))
        if step.evaluation_due:
            step.evaluate(data, lambda m, b: {"loss": F.cross_entropy(m(b[0]), b[1],
                                                                      reduction="none")})
        if step.number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGTERM)
    job.export("best")

Run.start(main)
"""


LARGEST_DIFFERENCE = 1e-6


def base_at(path: Path) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = {"base": (96, 8), "cast": (16, 96), "head": (3, 16)}
    tensors: dict[str, torch.Tensor] = {}
    for name, (rows, columns) in shapes.items():
        weight = torch.randn(rows, columns, generator=generator) / columns**0.5
        tensors |= {f"{name}.weight": weight, f"{name}.bias": torch.zeros(rows)}
    tensors["cast.weight"] = tensors["cast.weight"].bfloat16()
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    return tensors


def newest(folder: Path) -> Manifest:
    store = CheckpointStore(folder)
    step = store.steps()[0]
    with store.open(step) as reader:
        return reader.manifest


@pytest.mark.timeout(240)
def test_named_under_ddp_and_resumed_under_fsdp_from_another_folder(
    launch: Callable[..., Any], run: Any, tmp_path: Path
) -> None:
    first_place, moved = tmp_path / "a" / "base.safetensors", tmp_path / "b" / "other.safetensors"
    tensors = base_at(first_place)
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    command = ("--nproc-per-node", "2", "--run-dir", str(run.path))

    first = launch(*command, "--strategy", "ddp", script, str(first_place), "5")
    assert first.wait(100) == 75, first.stderr
    assert f"checkpoints name 3 frozen tensors (3.44 KiB) in {first_place} and" in first.stdout
    assert "1 frozen tensor (6 KiB) is copied: not in the files" in first.stdout
    before = newest(run.path / "checkpoints")
    assert before.named_paths == (str(first_place),)
    in_base = {one.tensor for one in before.named}
    assert in_base == {"base.weight", "base.bias", "cast.bias"}
    objects = sum(file.size_bytes for file in before.files if file.is_object)
    assert 6144 <= objects < 6144 + 2 * 4200  # of the tensor that was cast, and two headers

    other = {**tensors, "base.weight": tensors["base.weight"] + 1}
    save_file(other, first_place)
    refused = launch(*command, "--strategy", "fsdp", script, str(first_place), "-1")
    assert refused.wait(100) == 2, refused.stderr
    assert f"{first_place}: base.weight: bytes [0, 3072) do not match" in refused.stderr
    assert (
        "Put the file back as it was, or pass where it still is so: weights= to" in refused.stderr
    )
    assert "Traceback" not in refused.stderr
    first_place.unlink()

    base_at(moved)
    second = launch(*command, "--strategy", "fsdp", script, str(moved), "-1")
    assert second.wait(100) == 0, second.stderr
    after = newest(run.path / "checkpoints")
    assert after.step == 8
    assert after.named_paths == (str(moved),)
    assert after.objects == before.objects
    assert newest(run.path / "best").named_paths == (str(moved),)
    assert not list((run.path / "checkpoints").glob("refused-*"))
    exported = load_file(run.path / "export" / "model.safetensors")
    for name in ("base.weight", "base.bias", "cast.bias"):
        assert torch.equal(exported[name], tensors[name])
    assert not torch.equal(exported["head.weight"], tensors["head.weight"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("strategy", "other", "ranks"),
    [("zero1", "fsdp", 2), ("zero2", "single", 1), ("zero3", "ddp", 3)],
)
def test_named_under_zero_and_moved(
    launch: Callable[..., Any], run: Any, tmp_path: Path, strategy: str, other: str, ranks: int
) -> None:
    place, moved = tmp_path / "a" / "base.safetensors", tmp_path / "b" / "other.safetensors"
    tensors = base_at(place)
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]

    def train(strategy: str, ranks: int, *words: object, folder: Path = run.path) -> Any:
        command = ("--nproc-per-node", str(ranks), "--run-dir", str(folder), "--strategy", strategy)
        done = launch(*command, script, *map(str, words))
        done.code = done.wait(150)
        assert "Traceback" not in done.stderr
        return done

    def checkpoint(*words: object) -> Any:
        done = launch("checkpoint", *map(str, words))
        done.code = done.wait(60)
        return done

    base_at(moved)
    alone = type(run)(tmp_path / "alone")
    assert train("single", 1, moved, -1, folder=alone.path).code == 0
    first = train(strategy, 2, place, 1)
    assert first.code == 75, first.stderr
    assert f"checkpoints name 3 frozen tensors (3.44 KiB) in {place}" in first.stdout
    assert newest(run.path / "checkpoints").named_paths == (str(place),)
    again = train(strategy, 2, place, 4)
    assert again.code == 75, again.stderr
    before = newest(run.path / "checkpoints")
    assert (before.step, before.named_paths) == (6, (str(place),))
    assert {one.tensor for one in before.named} == {"base.weight", "base.bias", "cast.bias"}
    assert checkpoint("verify", run.path).code == 0

    save_file({**tensors, "base.weight": tensors["base.weight"] + 1}, place)
    unlike = "bytes [0, 3072) do not match their checksum (CRC-32 "
    refused = train(other, ranks, place, -1)
    assert refused.code == 2
    assert f"{place}: base.weight: {unlike}" in refused.stderr
    assert " instead of " in refused.stderr
    damaged = checkpoint("verify", run.path)
    assert damaged.code == 1
    assert f"{place}: {unlike}" in damaged.stdout
    assert "of base.weight" in damaged.stdout

    place.unlink()
    beside = tmp_path / "b" / "none.safetensors"
    save_file({"head.bias": tensors["head.bias"]}, beside)
    refused = train(other, ranks, beside, -1)
    assert refused.code == 2
    assert f"{place}: base.weight: " in refused.stderr
    assert "No such file" in refused.stderr
    damaged = checkpoint("verify", run.path)
    assert damaged.code == 1
    assert f"{place}: " in damaged.stdout

    assert checkpoint("verify", run.path, "--weights", moved).code == 0
    last = train(other, ranks, moved, -1)
    assert last.code == 0, last.stderr
    after = newest(run.path / "checkpoints")
    assert (after.step, after.named_paths) == (8, (str(moved),))
    assert run.difference(alone) <= LARGEST_DIFFERENCE
    exported = load_file(run.path / "export" / "model.safetensors")
    for name in ("base.weight", "base.bias", "cast.bias"):
        assert torch.equal(exported[name], tensors[name])
