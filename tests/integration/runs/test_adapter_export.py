"""A LoRA run through peft: its saves write the adapter, its export is one that peft loads."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from checkpointing import CheckpointStore

peft = pytest.importorskip("peft")

MODEL = """
import peft
import torch
from torch import nn

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.up = nn.Linear(8, 512)
        self.middle = nn.Linear(512, 512)
        self.down = nn.Linear(512, 3)

    def forward(self, x):
        x = torch.relu(self.up(x.to(self.up.weight.dtype)))
        return self.down(torch.relu(self.middle(x)))

def base(dtype):
    return Base().to(dtype)

def adapted(dtype):
    # What is trained besides must be in fp32, as the base is then.
    beside = ["down"] if dtype == torch.float32 else None
    wanted = peft.LoraConfig(r=2, target_modules=["up", "middle"], modules_to_save=beside)
    return peft.get_peft_model(base(dtype), wanted)
"""
SCRIPT = """
import sys
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset
from adapted_model import adapted
from launcher import Run

x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
data = TensorDataset(x, x[:, :3].argmax(-1))

def main(run):
    job = run.prepare(
        model=lambda: adapted(getattr(torch, sys.argv[1])),
        optimizer=lambda params: torch.optim.AdamW(params, lr=0.01),
        train=data, epochs=2, global_batch=8, micro_batch=4, save_every="4 steps",
    )
    for step in job:
        for x, y in step:
            step.backward(F.cross_entropy(job.model(x).float(), y, reduction="sum"), count=len(y))
    job.export()
    job.export(merged=True)

Run.start(main)
"""


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("strategy", "ranks", "dtype"),
    [
        ("fsdp", "2", "bfloat16"),
        pytest.param("single", "1", "float32", marks=pytest.mark.slow),
        pytest.param("ddp", "2", "bfloat16", marks=pytest.mark.slow),
        pytest.param("zero1", "2", "bfloat16", marks=pytest.mark.slow),
        pytest.param("zero2", "2", "bfloat16", marks=pytest.mark.slow),
        pytest.param("zero3", "2", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_peft_loads_what_a_run_exports(
    launch: Callable[..., Any],
    run: Any,
    strategy: str,
    ranks: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = launch.folder  # type: ignore[attr-defined]
    (folder / "adapted_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(folder)
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    words = ("--nproc-per-node", ranks, "--run-dir", str(run.path), "--strategy", strategy)
    done = launch(*words, script, dtype)
    assert done.wait(220) == 0, done.stderr
    made: dict[str, Any] = {}
    exec(MODEL, made)

    loaded = peft.PeftModel.from_pretrained(
        made["base"](getattr(torch, dtype)), str(run.path / "export")
    )
    state, own = run.state(), loaded.state_dict()
    trained = {n.removeprefix("fp32/"): t for n, t in state.items() if n.startswith("fp32/")}
    assert trained
    for name, values in trained.items():
        assert torch.equal(own[name].flatten().float(), values.to(own[name].dtype).float()), name
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = loaded(x).float()
        whole = made["base"](getattr(torch, dtype))
        whole.load_state_dict(load_file(run.path / "export" / "merged" / "model.safetensors"))
        merged = whole(x).float()
    assert torch.allclose(merged, expected, atol=0.05 if dtype == "bfloat16" else 1e-5)
    assert not torch.allclose(made["base"](getattr(torch, dtype))(x).float(), expected, atol=0.1)

    store = CheckpointStore(run.path / "checkpoints")
    with store.open(store.steps()[0]) as reader:
        manifest = reader.manifest
        assert manifest.own_bytes < manifest.size_bytes / 2
        assert all(
            t.chunks[0].file in manifest.objects for t in manifest.tensors if t.spec.key == "param"
        )
