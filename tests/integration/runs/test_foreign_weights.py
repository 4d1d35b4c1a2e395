"""Weights and dtypes of other programs in whole runs, under every strategy."""

import importlib.util

import pytest
import torch

SLOW = pytest.mark.slow

pytestmark = pytest.mark.timeout(240)
NO_LIBRARY = importlib.util.find_spec("transformers") is None
SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_local_experts": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 16,
}

MIXTRAL = f"""
import sys
import torch
from torch.utils.data import TensorDataset
from launcher import Run
from transformers import AutoModelForCausalLM, MixtralConfig

def main(run):
    config = MixtralConfig(**{SMALL})
    ids = torch.arange(128).view(16, 8) % 32
    job = run.prepare(
        model=lambda: AutoModelForCausalLM.from_config(config),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        train=TensorDataset(ids), global_batch=4, micro_batch=2, steps=1, weights=sys.argv[1],
    )
    for step in job:
        for (x,) in step:
            logits = job.model(input_ids=x).logits
            step.backward(logits.square().sum(), count=len(x))
    job.export("last")

Run.start(main)
"""


@pytest.mark.skipif(NO_LIBRARY, reason="transformers is not installed (an extra of the tests)")
@pytest.mark.parametrize(
    "strategy",
    [
        "single",
        pytest.param("ddp", marks=SLOW),
        "fsdp",
        pytest.param("zero1", marks=SLOW),
        pytest.param("zero3", marks=SLOW),
    ],
)
def test_experts_that_are_apart_in_files(strategy, launch, run, tmp_path):
    from transformers import AutoModelForCausalLM, MixtralConfig

    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(MixtralConfig(**SMALL))
    model.save_pretrained(tmp_path / "weights")
    count = "1" if strategy == "single" else "2"
    to = ("--nproc-per-node", count, "--strategy", strategy, "--run-dir", str(run.path))
    launched = launch(*to, launch.script(MIXTRAL), str(tmp_path / "weights"))
    assert launched.wait(180) == 0, launched.stderr
    assert "Setting accelerator to CPU" not in launched.stderr
    assert "untested optimizer" not in launched.stdout + launched.stderr
    # A rate of 0 leaves them as they were read, and the config beside them lets them be read again.
    again, told = AutoModelForCausalLM.from_pretrained(
        run.path / "export", output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    expected = model.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


BUFFER = """
import sys
import torch
from torch.utils.data import TensorDataset
from launcher import Run

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)
        scales = torch.tensor([1.0, 2.0, 4.0])
        self.register_buffer("scales", scales.to(getattr(torch, sys.argv[1])))

    def forward(self, x):
        return self.layer(x)

def main(run):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 8, generator=generator), torch.randn(32, 1, generator=generator)
    job = run.prepare(
        model=Net,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
        train=TensorDataset(x, y), global_batch=16, micro_batch=4, epochs=int(sys.argv[2]),
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))
    job.export("last")

Run.start(main)
"""


@pytest.mark.parametrize(
    "strategy",
    [
        "single",
        pytest.param("ddp", marks=SLOW),
        "fsdp",
        pytest.param("zero1", marks=SLOW),
        pytest.param("zero2", marks=SLOW),
        pytest.param("zero3", marks=SLOW),
    ],
)
def test_a_buffer_of_a_newer_dtype(strategy, launch, run):
    count = "1" if strategy == "single" else "2"
    to = ("--nproc-per-node", count, "--strategy", strategy, "--run-dir", str(run.path))
    for epochs in ("1", "2"):
        launched = launch(*to, launch.script(BUFFER), "float8_e8m0fnu", epochs)
        assert launched.wait(100) == 0, launched.stderr
    scales = run.state()["buffer/scales"]
    assert scales.dtype == torch.float8_e8m0fnu
    assert scales.float().tolist() == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("strategy", ["single", "fsdp"])
def test_a_buffer_that_no_file_can_hold(strategy, launch, run):
    count = "1" if strategy == "single" else "2"
    to = ("--nproc-per-node", count, "--strategy", strategy, "--run-dir", str(run.path))
    launched = launch(*to, launch.script(BUFFER), "complex128", "1")
    assert launched.wait(100) == 2, launched.stderr
    assert "buffer scales is torch.complex128, which no checkpoint can hold" in launched.stderr
    assert "persistent=False" in launched.stderr
    assert "Traceback" not in launched.stderr
