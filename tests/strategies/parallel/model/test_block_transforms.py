import sys

import pytest
import torch
from torch import nn

from strategies import BuildOptions, ConfigError
from strategies.parallel.model.block_transforms import work_on_blocks


class Counting(nn.Module):
    """A block that counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.forwards = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards += 1
        return torch.tanh(self.layer(x))


def test_named_blocks_run_again_in_the_backward_and_keep_their_names() -> None:
    model = nn.Sequential(Counting(), Counting(), Counting())
    names = [name for name, _ in model.named_parameters()]
    work_on_blocks(model, BuildOptions(checkpoint_blocks=("0", "2")))
    model(torch.ones(2, 3)).sum().backward()
    assert [block.forwards for block in model] == [2, 1, 2]
    assert [name for name, _ in model.named_parameters()] == names
    with torch.no_grad():
        model(torch.ones(2, 3))
    assert [block.forwards for block in model] == [3, 2, 3]


def test_nothing_to_recompute_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"checkpoint_blocks=True.*Linear has no repeated modules"
    ):
        work_on_blocks(nn.Linear(2, 2), BuildOptions(checkpoint_blocks=True))


@pytest.mark.slow
def test_compiled_blocks_compute_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Counting(), Counting())
    x = torch.randn(4, 3)
    expected = model(x)
    expected.sum().backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    work_on_blocks(model, BuildOptions(compile_blocks=True, checkpoint_blocks=True))
    found = model(x)
    found.sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close([p.grad for p in model.parameters()], grads)


def test_compiling_for_a_gpu_needs_a_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one triton fails at the first step, in a traceback."""
    model = nn.Sequential(Counting(), Counting())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ConfigError, match="neither CC nor gcc nor clang"):
        work_on_blocks(model, BuildOptions(compile_blocks=True))
    monkeypatch.setenv("CC", "/opt/cc")
    with pytest.raises(ConfigError, match=r'CC="/opt/cc" in the environment is no program'):
        work_on_blocks(model, BuildOptions(compile_blocks=True))
    monkeypatch.setenv("CC", sys.executable)
    work_on_blocks(model, BuildOptions(compile_blocks=True))
