"""Whether to start again, as a table."""

import pytest

from launcher.agent.attempts.restart_policy import FailedAttempt, RestartDecision, verdict


def attempt(*, code=1, lived_s=5.0, gives_signs=True, **more):
    return FailedAttempt(code=code, lived_s=lived_s, gives_signs=gives_signs, **more)


def plain(**more):
    return attempt(gives_signs=False, **more)


@pytest.mark.parametrize(
    ("one", "progressed", "place"),
    [
        (attempt(), False, "before the first step"),
        (attempt(lived_s=500.0, joined=True), False, "before the first step"),
        (attempt(step=3), True, "after step 3"),
        (plain(), False, "at the start"),
        (plain(joined=True), True, None),
        (plain(lived_s=30.0), True, None),
        (plain(lived_s=29.0), False, "at the start"),
    ],
)
def test_progress(one, progressed, place):
    assert (one.progressed, one.place) == (progressed, place)


AGAIN = RestartDecision(restart=True)
SILENT = RestartDecision(restart=False)
USED_UP = RestartDecision(restart=False, reason="--max-restarts 3 is used up.")
NO_STEP = RestartDecision(
    restart=False, reason="not restarting: it failed before its first step, and would fail again."
)
NOT_MET = RestartDecision(
    restart=False, reason="not restarting: it failed before the ranks met, and would fail again."
)
TWICE = "not restarting: it failed twice {} with the same error."


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([attempt(step=5)], AGAIN),
        ([attempt(step=5, code=137)], AGAIN),
        ([plain(joined=True)], AGAIN),
        ([attempt(step=5, code=0)], SILENT),
        ([attempt(step=5, code=2)], SILENT),
        ([attempt(step=5, code=75)], SILENT),
        ([attempt(step=5, code=93)], SILENT),
        ([attempt()], NO_STEP),
        ([plain()], NOT_MET),
        (
            [attempt(step=5, error="A"), attempt(error="A")],
            RestartDecision(restart=True, wait_s=1.0),
        ),
        (
            [attempt(step=5, error="A"), attempt(step=5, error="B")],
            RestartDecision(restart=True, wait_s=1.0),
        ),
        (
            [attempt(step=5, error="A"), attempt(step=6, error="A")],
            RestartDecision(restart=True, wait_s=1.0),
        ),
        ([attempt(step=5, lived_s=61, error="A"), attempt(step=9, lived_s=61, error="A")], AGAIN),
        (
            [attempt(step=5, error="bad 0x7f at 12.5"), attempt(step=5, error="bad 0x11 at 3")],
            RestartDecision(restart=False, reason=TWICE.format("after step 5")),
        ),
        (
            [attempt(step=5), attempt(error="A"), attempt(error="A")],
            RestartDecision(restart=False, reason=TWICE.format("before the first step")),
        ),
        (
            [plain(joined=True, error="A"), plain(joined=True, error="A")],
            RestartDecision(restart=True, wait_s=1.0),
        ),
        ([attempt(step=n) for n in range(4)], USED_UP),
    ],
)
def test_verdict(history, expected):
    assert verdict(history, max_restarts=3, warned=False) == expected


def test_never_against_a_warning_and_never_unasked():
    assert verdict([attempt(step=5)], max_restarts=3, warned=True) == SILENT
    assert verdict([attempt(step=5)], max_restarts=0, warned=False) == SILENT


def test_back_off_doubles_up_to_a_minute():
    history = [attempt(step=n) for n in range(1, 10)]
    waits = [verdict(history[:n], max_restarts=99, warned=False).wait_s for n in range(1, 10)]
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60]
