import math
from typing import Any

import pytest
import torch

from strategies import schedules
from strategies.schedules.pieces import Factor, Rate, Schedule, Span

RUN = Span(total_steps=1000, steps_per_epoch=100)


def values(schedule: Schedule, count: int, span: Span | int) -> list[float]:
    return [schedule(step, span) for step in range(count)]


def test_warmup_ends_at_one_and_stays() -> None:
    assert values(schedules.warmup(4), 6, 10) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert values(schedules.warmup(2, start=0.5), 3, 10) == [0.75, 1.0, 1.0]


def test_an_exponential_warmup_rises_by_equal_ratios() -> None:
    found = values(schedules.warmup(4, "exponential", start=0.0625), 5, 10)
    assert found == pytest.approx([0.125, 0.25, 0.5, 1.0, 1.0])


def test_cosine_runs_from_one_to_its_floor_at_the_last_step() -> None:
    schedule = schedules.cosine(floor=0.1)
    assert schedule(0, 101) == 1.0
    assert schedule(50, 101) == pytest.approx(0.55)
    assert schedule(100, 101) == pytest.approx(0.1)
    assert schedule(500, 101) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        (schedules.constant(0.5), {0: 0.5, 999: 0.5}),
        (schedules.linear(0.2), {0: 1.0, 999: 0.2}),
        (schedules.polynomial(2.0, 0.1, start=0.9), {0: 0.9, 999: 0.1}),
        (schedules.step("2 epochs", 0.5), {0: 1, 199: 1, 200: 0.5, 400: 0.25, 999: 0.0625}),
        (schedules.multi_step(["3 epochs", "60%"], 0.1), {299: 1, 300: 0.1, 599: 0.1, 600: 0.01}),
        (schedules.exponential(0.5, every="1 epoch"), {0: 1, 50: 0.5**0.5, 100: 0.5, 900: 0.5**9}),
        (schedules.inverse_sqrt(100), {0: 1.0, 300: 0.5, 800: 1 / 3}),
        (
            schedules.cosine_restarts(100, growth=2, floor=0.1),
            {0: 1, 99: 0.1, 100: 1, 299: 0.1, 300: 1, 699: 0.1, 700: 1},
        ),
        (
            schedules.warmup_stable_decay(warmup="1 epoch", decay="20%", floor=0.1),
            {0: 0.01, 99: 1, 100: 1, 799: 1, 800: 1, 999: 0.1},
        ),
        (
            schedules.warmup_stable_decay(warmup=10, decay=401, shape="1-sqrt"),
            {9: 1, 598: 1, 599: 1, 699: 0.5, 999: 0},
        ),
        (schedules.constant().then(schedules.linear(), at="90%"), {899: 1, 900: 1, 999: 0}),
        (
            schedules.cosine(0.5).lasting("50%").then(schedules.constant(0.5)),
            {0: 1, 499: 0.5, 500: 0.5, 999: 0.5},
        ),
    ],
    ids=str,
)
def test_where_each_curve_is(schedule: Schedule, at: dict[int, float]) -> None:
    assert {step: schedule(step, RUN) for step in at} == pytest.approx(at)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (schedules.step(30, 0.3), lambda o: torch.optim.lr_scheduler.StepLR(o, 30, 0.3)),
        (
            schedules.multi_step([20, 50], 0.3),
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [20, 50], 0.3),
        ),
        (schedules.exponential(0.97), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.97)),
        (
            schedules.cosine(0.1),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 99, eta_min=0.02),
        ),
        (
            schedules.polynomial(2.0),
            lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 99, power=2.0),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Schedule) else "torch",
)
def test_the_same_rates_as_torch(ours: Schedule, theirs: Any) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    scheduler = theirs(optimizer)
    for step in range(100):
        assert ours.rate(step, 100, 0.2) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_phases_follow_each_other_and_share_the_run() -> None:
    schedule = schedules.warmup(10).then(schedules.cosine(floor=0.0))
    assert schedule(9, 110) == 1.0
    assert schedule(10, 110) == 1.0
    assert schedule(109, 110) == pytest.approx(0.0, abs=1e-12)
    found = [schedule(s, 110) for s in range(10, 110)]
    assert found == sorted(found, reverse=True)


def test_the_seeds_schedule_five_epochs_of_warmup_then_cosine_to_a_floor() -> None:
    """As the tutorials mean it: 1e-2 at the peak, 1e-3 at the end, and never a jump."""
    schedule = schedules.warmup("5 epochs").then(schedules.cosine(floor=0.1))
    span = Span(total_steps=50 * 7, steps_per_epoch=7)
    rates = [schedule.rate(step, span, 1e-2) for step in range(span.total_steps)]
    assert rates[:35] == pytest.approx([1e-2 * (step + 1) / 35 for step in range(35)])
    assert rates[35] == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-3)
    assert rates[35:] == sorted(rates[35:], reverse=True)


def test_three_phases() -> None:
    schedule = schedules.warmup(2).then(schedules.warmup(2)).then(schedules.constant())
    assert values(schedule, 5, 10) == [0.5, 1.0, 0.5, 1.0, 1.0]
    assert str(schedule) == "warmup(2).then(warmup(2)).then(constant())"


def test_a_rate_in_place_of_a_factor_is_refused() -> None:
    """The tutorials' mistake: a function whose cosine is between two rates, taken for a factor."""

    def mistaken(step: int, span: Span) -> Any:
        return 1e-3 + 0.5 * (1e-2 - 1e-3) * (1 + math.cos(math.pi * step / span.total_steps))

    with pytest.raises(ValueError, match="bare number") as refusal:
        schedules.function(mistaken).rate(3, 10, 1e-2)
    assert "mistaken" in str(refusal.value)
    assert "Factor(...) multiplies" in str(refusal.value)
    right = schedules.function(lambda step, span: Rate(mistaken(step, span)))
    assert right.rate(0, 10, 1e-2) == pytest.approx(1e-2)
    assert right.rate(10, 10, 1e-2) == right.rate(9, 10, 1e-2)


def test_a_factor_must_be_one() -> None:
    for value in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="factor between 0 and 1"):
            schedules.function(lambda step, span, v=value: Factor(v))(3, 10)
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be 0 or more"):
            schedules.function(lambda step, span, v=value: Rate(v)).rate(3, 10, 1.0)
    with pytest.raises(ValueError, match="no factor"):
        schedules.function(lambda step, span: Rate(1e-3))(3, 10)


def test_what_has_no_end_cannot_be_followed() -> None:
    with pytest.raises(ValueError, match="nothing can follow cosine"):
        schedules.cosine().then(schedules.constant())
    with pytest.raises(ValueError, match=r"\.lasting"):
        schedules.warmup(2).then(schedules.cosine()).then(schedules.constant())
    with pytest.raises(ValueError, match="has a length already"):
        schedules.warmup(2).lasting(5)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (
            schedules.warmup(200).then(schedules.cosine(), at="1 epoch"),
            "warmup\\(200\\) covers the steps 0 to 200 and overlaps .* begins at step 100",
        ),
        (schedules.warmup(20).then(schedules.cosine(), at="1 epoch"), "leaves a gap before"),
        (schedules.warmup_stable_decay(warmup="6 epochs", decay="50%"), "would overlap"),
        (
            schedules.constant().then(schedules.linear(), at="9 epochs").lasting(50)
            .then(schedules.constant(0), at=925),
            "overlaps",
        ),
        (schedules.multi_step([500, "4 epochs"]), "must rise"),
    ],
)  # fmt: skip
def test_overlaps_and_gaps_are_refused(schedule: Schedule, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        schedule(0, RUN)


def test_a_run_that_is_too_short_is_said() -> None:
    schedule = schedules.warmup(30).then(schedules.cosine())
    assert schedule.notes(RUN) == []
    assert [schedule(step, 14) for step in (0, 13)] == pytest.approx([1 / 30, 14 / 30])
    notes = schedule.notes(Span(total_steps=14))
    assert notes == [
        "the schedule's warmup(30) covers the steps 0 to 30, and the run has only 14",
        "the schedule's cosine() covers the steps 30 to 30, and the run has only 14",
    ]


def test_epochs_need_to_be_known() -> None:
    with pytest.raises(ValueError, match="how many steps an epoch has is not known"):
        schedules.warmup("2 epochs")(0, 100)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.warmup(0), "at least one step"),
        (lambda: schedules.warmup(0.1), "no length"),
        (lambda: schedules.warmup("ten steps"), "no length"),
        (lambda: schedules.warmup("0 epochs"), "more than 0"),
        (lambda: schedules.warmup("120%"), "at most 100%"),
        (lambda: schedules.warmup("1.5 steps"), "whole number"),
        (lambda: schedules.warmup(5, "cubic"), "choose from exponential, linear"),
        (lambda: schedules.warmup(5, "exponential", start=0.0), "above 0"),
        (lambda: schedules.cosine(floor=2.0), "between 0 and 1"),
        (lambda: schedules.linear(floor=math.nan), "between 0 and 1"),
        (lambda: schedules.polynomial(0), "above 0"),
        (lambda: schedules.step(10, gamma=3), "at most 1"),
        (lambda: schedules.multi_step([]), "needs a list"),
        (lambda: schedules.cosine_restarts(10, growth=0.5), "at least 1"),
        (lambda: schedules.warmup_stable_decay(warmup=1, decay=2, shape="x"), "choose from 1-sqrt"),
        (lambda: schedules.function(0.1), "needs a function"),
    ],
)
def test_bad_arguments_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
