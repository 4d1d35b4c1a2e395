from dataclasses import replace

import pytest

from launcher.run_folder.progress_line import NextSave, Pace, Standing, duration_text, progress_line

STANDING = Standing(
    step=120,
    total_steps=420,
    epochs=120 / 14,
    total_epochs=30,
    loss=0.21341,
    rate=1.833e-3,
    grad_norm=0.5,
    samples_per_s=10240.4,
    left_s=80.4,
    next_save=NextSave(step=200),
    deadline_s=720.0,
    metrics={"val/loss": 0.25},
)


def test_everything_that_is_known_is_shown():
    assert progress_line(STANDING) == (
        "step 120/420  epoch 8.57/30  loss 0.2134  lr 0.00183  grad 0.5  1.024e+04 samples/s  "
        "val/loss 0.25  1:20 min left  save at step 200  deadline in 12:00 min"
    )


def test_nothing_is_said_of_what_is_not_known():
    line = progress_line(
        replace(STANDING, loss=None, left_s=None, next_save=NextSave(), deadline_s=None, metrics={})
    )
    for word in ("loss", "left", "save", "deadline", "None", "nan"):
        assert word not in line


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "step 120/420  loss 0.2134  val/loss 0.25  1:20 min left  deadline in 12:00 min"),
        (60, "step 120/420  loss 0.2134  1:20 min left"),
        (20, "step 120/420"),
        (8, "step 120"),
    ],
)
def test_a_narrow_terminal_loses_what_matters_least(width, line):
    assert progress_line(STANDING, width) == line


def test_a_save_after_the_end_is_not_announced():
    assert "save" not in progress_line(replace(STANDING, next_save=NextSave(step=500)))
    assert "save" not in progress_line(replace(STANDING, next_save=NextSave(left_s=300.0)))
    assert "save in 30 s" in progress_line(replace(STANDING, next_save=NextSave(left_s=30.0)))


def test_at_the_end_nothing_is_left():
    assert "left" not in progress_line(replace(STANDING, step=420, left_s=0.0))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00 min"),
        (67, "1:07 min"),
        (3600, "1:00 h"),
        (7500, "2:05 h"),
        (47.99 * 3600, "47:59 h"),
        (3.4 * 86400, "3.4 days"),
    ],
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


def test_the_pace_is_the_mean_and_forgets():
    assert Pace().left_s(10) is None
    pace = Pace()
    for _ in range(5):
        pace = pace.after(2.0)
    assert pace.left_s(10) == pytest.approx(20.0)
    for _ in range(500):
        pace = pace.after(1.0)
    assert pace.left_s(10) == pytest.approx(10.0, rel=1e-3)
