"""One count of a run's attempts, whoever begins it."""

import pytest

from launcher.agent.output.log_folder import LogFolder
from launcher.run_folder.attempt_number import last_number, next_number, number_in
from launcher.run_folder.jsonl import EVENTS, append_event


def start(number):
    return {"event": "start", "attempt": number}


def ended(number):
    return {"event": "attempt", "attempt": number}


@pytest.mark.parametrize(
    ("events", "number"),
    [
        ([], 0),
        ([start(1)], 1),
        ([start(1), ended(1)], 1),
        ([start(1), ended(1), ended(2)], 2),
        # As runs were written before: the launcher counted from 0 in each command.
        ([start(1), ended(0), start(2), ended(1), start(3), ended(0)], 3),
        ([{"event": "saved", "attempt": 9}, {"event": "start", "attempt": "x"}], 0),
    ],
)
def test_last_number(events, number):
    assert last_number(events) == number


def test_of_a_folder(tmp_path):
    assert next_number(None) == next_number(tmp_path) == number_in(tmp_path) == 1
    append_event(tmp_path, "start", attempt=4)
    append_event(tmp_path, "attempt", attempt=5)
    assert (next_number(tmp_path), number_in(tmp_path)) == (6, 6)
    append_event(tmp_path, "start", attempt=6)
    assert (next_number(tmp_path), number_in(tmp_path)) == (7, 6)
    (tmp_path / EVENTS).write_bytes(b"\xff\n")
    assert next_number(tmp_path) == number_in(tmp_path) == 1


def test_log_folders_follow_the_run_and_are_never_used_twice(tmp_path):
    (tmp_path / "attempt-0").mkdir()
    made = [LogFolder.create(tmp_path, print, at_least=number) for number in (2, 3, 3)]
    assert [folder.number for folder in made] == [2, 3, 4]
    assert [folder.path.name for folder in made] == ["attempt-2", "attempt-3", "attempt-4"]
