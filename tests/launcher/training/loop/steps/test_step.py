"""What one step adds up and sends, with a stub of its run."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from launcher.training.loop.steps import step as module
from launcher.training.loop.steps.kernel_check import KernelCheck
from launcher.training.loop.steps.step import Step
from strategies import StepOutcome, Turn
from strategies.boundary.boundary import Boundary, Report
from strategies.collectives.late_number import LateNumber
from strategies.data.batches import MicroBatch
from strategies.parallel.build_options import BuildOptions


class Owner:
    """A run of one rank that notes what it is asked for."""

    def __init__(self, first_scale: float = 1.0) -> None:
        self.log: list[Any] = []
        self.first_scale = first_scale
        self.trial = None
        self.ranks = SimpleNamespace(device=torch.device("cpu"))
        quiet = dict.fromkeys(
            ("begin_step", "begin_micro_batch", "end_micro_batch"), lambda *a, **k: None
        )
        self.statistics = SimpleNamespace(end_step=lambda count: [], apart=(), **quiet)
        self.strategy: Any = SimpleNamespace(
            micro_step=lambda is_last: None,
            backward=lambda loss, where: self.log.append(("backward", float(loss.detach()))),
            has_seen_loss=True,
            gradient_watch=None,
            options=BuildOptions(),
            step=self._step,
            skip=lambda: self.log.append("skip"),
            compare_buffers=lambda besides: None,
        )
        self.kernels = KernelCheck(cast(Any, self.strategy))

    def _step(self, divisor: float) -> StepOutcome:
        self.log.append(("step", divisor))
        return StepOutcome(grad_norm=1.0, applied=True)

    def next_batch(self) -> tuple[torch.Tensor, bool]:
        return torch.ones(2), True

    def begin_round(self) -> None: ...

    def end_round(self) -> None: ...

    def before_update(self) -> None: ...

    def note_trained(self) -> None: ...

    def first_loss_scale(self, counted: float) -> float:
        self.log.append(("first scale", counted))
        return self.first_scale

    def carry(self, count: float) -> Any:
        self.log.append(("carry", count))
        notice = SimpleNamespace(lacks_data=False)
        return lambda: SimpleNamespace(total=count, notice=notice)

    def warn(self, sentence: str) -> None: ...


def turn(index: int) -> Turn:
    micro_batch = MicroBatch(index=index, start=2 * index, end=2 * index + 2)
    return Turn(micro_batch=micro_batch, is_padding=False)


def run(owner: Owner, pairs: list[tuple[float, Any]], **options: Any) -> Step:
    step = Step(
        number=options.get("number", 1),
        seed=0,
        loss_scale=options.get("scale", 1.0),
        evaluation_due=False,
        turns=[turn(index) for index in range(len(pairs))],
        num_micro_batches=len(pairs),
        owner=owner,  # type: ignore[arg-type]
    )
    left = iter(pairs)
    for _ in step:
        value, count = next(left)
        step.backward(torch.tensor(value, requires_grad=True) * 1.0, count=count)
    return step


def test_counts_on_the_host_are_sent_before_the_last_backward() -> None:
    owner = Owner()
    step = run(owner, [(3.0, 2), (5.0, torch.tensor(4.0))])
    assert owner.log == [("backward", 3.0), ("carry", 6.0), ("backward", 5.0), ("step", 6.0)]
    assert (float(step.loss_sum), float(step.loss_count)) == (8.0, 6.0)


def test_counts_on_a_device_are_sent_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host then does not wait for the device between forward and backward."""
    monkeypatch.setattr(module, "_is_on_host", lambda count: False)
    owner = Owner()
    step = run(owner, [(3.0, torch.tensor(2)), (5.0, torch.tensor(4.0)), (1.0, 1)])
    assert [one[0] for one in owner.log] == ["backward"] * 3 + ["carry", "step"]
    assert owner.log[-1] == ("step", 7.0)
    assert (float(step.loss_sum), float(step.loss_count)) == (9.0, 7.0)


@pytest.mark.parametrize("is_on_host", [True, False])
def test_a_mean_over_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch, is_on_host: bool) -> None:
    monkeypatch.setattr(module, "_is_on_host", lambda count: is_on_host)
    step = run(Owner(), [(math.nan, torch.tensor(0)), (5.0, torch.tensor(4))])
    assert (float(step.loss_sum), float(step.loss_count)) == (5.0, 4.0)
    # One that counts stays what it is.
    step = run(Owner(), [(math.nan, torch.tensor(1)), (5.0, torch.tensor(4))])
    assert math.isnan(float(step.loss_sum))


def test_the_first_loss_scale_follows_what_is_counted() -> None:
    owner = Owner(first_scale=4.0)
    run(owner, [(3.0, 2), (5.0, 4)], number=0, scale=65536.0)
    assert owner.log[:2] == [("first scale", 2.0), ("backward", 12.0)]
    assert owner.log[-2:] == [("backward", 20.0), ("step", 24.0)]
    later = Owner(first_scale=4.0)
    run(later, [(3.0, 2)], number=1, scale=8.0)
    assert later.log[:2] == [("carry", 2.0), ("backward", 24.0)]


def test_a_late_number_is_as_it_was_when_it_was_asked_for() -> None:
    value = torch.tensor(3.0, dtype=torch.float64)
    late = LateNumber(value)
    value.zero_()
    assert float(late) == 3.0
    report = Report(step=1, loss_sum=late, loss_count=LateNumber(torch.tensor(2.0)))
    boundary = Boundary(SimpleNamespace(rank=0, world_size=1), {})  # type: ignore[arg-type]
    assert boundary._vector(report)[6:8] == [3.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_late_number_is_of_any_type_and_out_of_a_graph(dtype: torch.dtype) -> None:
    value = torch.tensor(1.5, dtype=dtype, requires_grad=True)
    assert float(LateNumber(2 * value)) == 3.0
