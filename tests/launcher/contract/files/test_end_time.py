"""The end of the job's time, as a rank sees it move."""

from pathlib import Path

import pytest

from launcher.contract.files.end_time import CONFIRM_S, EndTime, ToldEnd, end_time_file


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return end_time_file(tmp_path / "warning.json")


def test_what_was_told_at_the_start_holds_until_the_launcher_tells_another(file):
    clock = Clock()
    end = EndTime(1100.0, file, clock)
    assert end.now_s() == 1100.0
    ToldEnd(end_time_s=1700.0, asked_at_s=1010.0).write(file)
    clock.now = 1010.0
    assert end.now_s() == 1700.0
    ToldEnd(end_time_s=1060.0, asked_at_s=1020.0).write(file)
    clock.now = 1020.0
    assert end.now_s() == 1060.0
    ToldEnd(end_time_s=None, asked_at_s=1030.0).write(file)
    clock.now = 1030.0
    assert end.now_s() is None


def test_a_later_attempt_begins_with_what_is_known_by_then(file):
    ToldEnd(end_time_s=1700.0, asked_at_s=990.0).write(file)
    assert EndTime(1100.0, file, Clock()).now_s() == 1700.0


def test_an_end_that_goes_by_is_doubted_until_the_launcher_has_asked(file):
    """The job was suspended beyond it, and comes back to more time."""
    clock = Clock()
    end = EndTime(1100.0, file, clock)
    clock.now = 1200.0
    assert end.now_s() is None
    ToldEnd(end_time_s=1400.0, asked_at_s=1201.0).write(file)
    clock.now = 1202.0
    assert end.now_s() == 1400.0


def test_it_is_not_doubted_for_ever(file):
    clock = Clock()
    end = EndTime(1100.0, file, clock)
    clock.now = 1200.0
    assert end.now_s() is None
    clock.now += CONFIRM_S
    assert end.now_s() == 1100.0


def test_nor_when_the_launcher_has_confirmed_it(file):
    clock = Clock()
    ToldEnd(end_time_s=1100.0, asked_at_s=1200.0).write(file)
    clock.now = 1201.0
    assert EndTime(1100.0, file, clock).now_s() == 1100.0


@pytest.mark.parametrize("text", ["", "[]", '{"end_time": "x", "asked_at": 1}', '{"end_time": 1}'])
def test_a_file_that_is_not_ours_changes_nothing(file, text):
    file.write_text(text)
    assert EndTime(1100.0, file, Clock()).now_s() == 1100.0


def test_where_nothing_is_known_nothing_is():
    assert EndTime(None).now_s() is None


def test_a_full_disk_keeps_the_former_end(tmp_path):
    ToldEnd(end_time_s=1.0, asked_at_s=2.0).write(tmp_path / "no folder" / "end-time.json")
