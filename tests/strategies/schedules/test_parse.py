import pytest

from strategies import schedules
from strategies.schedules.parse import parse_schedule, schedule_of_script

SCRIPT = """
import something_that_is_not_there
job = run.prepare(
    optimizer=lambda parameters: AdamW(parameters, lr=3e-3),
    schedule=schedules.warmup("2 epochs").then(schedules.cosine(floor=0.1)),
)
"""


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.warmup(50).then(schedules.cosine(floor=0.1)),
        schedules.constant(0.5).then(schedules.linear(start=0.5), at="80%"),
        schedules.warmup("5%", "exponential", start=0.1).then(schedules.inverse_sqrt(100)),
        schedules.multi_step([10, "50%"], 0.5),
        schedules.polynomial(2.0, floor=0.1),
        schedules.cosine_restarts(10, growth=2.0, floor=0.1),
        schedules.exponential(0.5, every="10 steps"),
        schedules.step(7, 0.5),
    ],
    ids=str,
)
def test_what_a_schedule_prints_is_read_back(schedule: schedules.Schedule) -> None:
    again = parse_schedule(str(schedule))
    assert str(again) == str(schedule)
    assert [again(step, 100) for step in range(100)] == [schedule(s, 100) for s in range(100)]


def test_more_forms() -> None:
    text = "schedules.cosine(0.5).lasting('50%').then(strategies.schedules.constant(factor=0.5))"
    assert parse_schedule(text)(99, 100) == 0.5
    assert parse_schedule("warmup_stable_decay(warmup=10, decay='20%')")(99, 100) == 0.0


def test_a_script_is_read_and_not_run() -> None:
    assert str(schedule_of_script(SCRIPT, name="train.py")) == str(
        schedules.warmup("2 epochs").then(schedules.cosine(floor=0.1))
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("warmup(", "is not Python"),
        ("cosin()", "cosin is not known here. Known are constant, cosine"),
        ("__import__('os').system('true')", "is not known here"),
        ("warmup.then(cosine())", "not known"),
        ("warmup(5).__class__()", "not known"),
        ("warmup(n)", "n is no plain value"),
        ("warmup(5 * 10)", "no plain value"),
        ("cosine(**{})", "not known here"),
        ("3", "3 is no schedule"),
        ("cosine(flor=1)", "flor"),
        ("cosine(floor='x')", "floor"),
        ("warmup(5).then(7)", "then\\(7\\) needs a schedule"),
        ("cosine().then(linear())", "nothing can follow"),
    ],
)
def test_anything_else_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_schedule(text)


def test_scripts_without_one_schedule_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.py has 0 calls"):
        schedule_of_script("run.prepare()", name="train.py")
    with pytest.raises(ValueError, match=r"line 2: arguments\.warmup is no plain value"):
        schedule_of_script("\np(schedule=warmup(arguments.warmup))", name="train.py")
    with pytest.raises(ValueError, match="line 1"):
        schedule_of_script("def", name="train.py")
