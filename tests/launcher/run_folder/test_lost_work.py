import subprocess
import sys

import pytest

from launcher.run_folder.lost_work import LostWork, lost_work, newest_saved
from launcher.training.reporting.process_age import age_s


def records(*rows):
    return [dict(zip(("step", "attempt", "time"), row, strict=False)) for row in rows]


@pytest.mark.parametrize(
    ("found", "step", "expected"),
    [
        ([], 0, LostWork(steps=0, seconds=0.0)),
        (records((10, 1, 100.0)), 10, LostWork(steps=0, seconds=0.0)),
        (records((10, 1, 100.0), (30, 1, 140.0)), 10, LostWork(steps=20, seconds=40.0)),
        (records((10, 1, 100.0), (30, 1, 140.0)), 20, LostWork(steps=10, seconds=20.0)),
        # Nothing was recorded before: what it took to the first record is not known.
        (records((10, 1, 100.0), (30, 1, 140.0)), 0, LostWork(steps=30, seconds=40.0)),
        # Back behind an earlier attempt: the time between the two was not work.
        (
            records((10, 1, 100.0), (20, 1, 110.0), (30, 2, 900.0), (40, 2, 905.0)),
            15,
            LostWork(steps=25, seconds=10.0),
        ),
        # Records of an earlier version have no time.
        (records((10,), (20,)), 10, LostWork(steps=10, seconds=0.0)),
    ],
)
def test_what_an_interruption_costs(found, step, expected):
    assert lost_work(found, step) == expected


def test_the_age_of_a_process_and_of_its_parent():
    module = "launcher.training.reporting.process_age"
    code = f"from {module} import age_s; print(age_s(of_launcher=True))"
    mine = age_s(of_launcher=False)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert mine > 0
    assert mine - 0.02 <= float(done.stdout) <= age_s(of_launcher=False) + 0.02


def test_without_proc_nothing_is_known(tmp_path):
    assert age_s(of_launcher=False, proc=tmp_path) == 0.0


@pytest.mark.parametrize(
    ("events", "step"),
    [
        ((), 0),
        ((("start", 0), ("saved", 4), ("saved", 8), ("end", 9)), 8),
        ((("saved", 8), ("rolled back", 4)), 4),
        ((("saved", 8), ("saved", None)), 8),  # written by something else
        # A start that fell back to an older one has said so.
        ((("saved", 8), ("start", 4)), 4),
    ],
)
def test_the_newest_checkpoint_that_should_be_there(events, step):
    assert newest_saved([{"event": event, "step": number} for event, number in events]) == step
