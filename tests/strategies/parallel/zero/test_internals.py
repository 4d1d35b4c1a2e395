"""What is read of DeepSpeed's optimizers; stubs stand for them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from strategies.parallel.zero import internals
from strategies.parallel.zero.internals import Piece, Stage3, Stage12


def test_offloaded_gradients_are_read_once_they_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU copies them while the host goes on; what they were before is no gradient."""
    masters = torch.zeros(3)
    masters.grad = torch.full((3,), -1.0)
    piece = Piece(fqn="weight", start=0, end=3, buffer=masters, group=0, offset=0)
    arrive = lambda: masters.grad.copy_(torch.tensor([1.0, 2.0, 3.0]))  # noqa: E731
    layout = Stage12(SimpleNamespace(cpu_offload=True, _wait_for_offload_copies=arrive))
    monkeypatch.setattr(Stage12, "pieces", lambda _: iter([piece]))
    assert [grad.tolist() for _, grad in layout.gradients()] == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("is_finite", [True, False])
def test_stage_3_follows_our_verdict_and_looks_at_no_gradient(is_finite: bool) -> None:
    """Its own looks would wait for a GPU, and sum over the ranks once more."""
    zero: Any = SimpleNamespace(overflow=None)
    Stage3(zero).settle(is_finite=is_finite)
    zero.check_overflow()
    assert zero.overflow == (not is_finite)
    utils = pytest.importorskip("deepspeed.runtime.utils")
    norm = utils.combine_grad_norm_groups(zero._get_norm_groups())
    assert utils.is_invalid_grad_norm(norm) == (not is_finite)
    assert norm.is_cpu


def test_every_name_that_is_used_is_looked_for_at_the_start() -> None:
    for kind, name in (("Stage12", "_wait_for_offload_copies"), ("Stage3", "_get_norm_groups")):
        assert name in getattr(internals, kind).needs
