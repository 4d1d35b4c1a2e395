import pytest

from launcher.training.recipe.interval import Every, parse_every


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100 steps", Every(steps=100)),
        ("1 step", Every(steps=1)),
        ("1 epoch", Every(steps=14)),
        ("0.5 epochs", Every(steps=7)),
        ("5 min", Every(seconds=300)),
        ("90 s", Every(seconds=90)),
        ("1.5 hours", Every(seconds=5400)),
        (" 2 minutes ", Every(seconds=120)),
        ("auto", Every(auto=True)),
    ],
)
def test_intervals(text: str, expected: Every) -> None:
    assert parse_every(text, name="save_every", steps_per_epoch=14) == expected


@pytest.mark.parametrize(
    "text", ["", "often", "5", "steps", "-1 steps", "0 steps", "1.5 steps", "0 min", "1 fortnight"]
)
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f'save_every="{text}"'):
        parse_every(text, name="save_every", steps_per_epoch=14)


def test_an_interval_in_steps_is_due_at_its_multiples() -> None:
    every = Every(steps=3)
    assert [step for step in range(1, 10) if every.is_due(step)] == [3, 6, 9]
    assert not Every(seconds=1.0).is_due(3)
