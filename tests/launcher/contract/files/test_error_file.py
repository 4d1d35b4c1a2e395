"""The error file: ours, torchrun's, and rubbish."""

import json
import time

import pytest

from launcher.contract.files.error_file import (
    ErrorRecord,
    parse_error,
    read_error,
    write_error,
    write_exception,
)


def test_sentence_is_read_back(tmp_path):
    path = tmp_path / "error.json"
    before = time.monotonic()
    assert write_error(path, "lr=-1, but it has to be above 0.", exit_code=2)
    record = read_error(path)
    assert record == ErrorRecord(
        message="lr=-1, but it has to be above 0.",
        exit_code=2,
        told_s=record.told_s,
        is_sentence=True,
    )
    assert before <= record.told_s <= time.monotonic()
    assert [p.name for p in tmp_path.iterdir()] == ["error.json"]


def test_an_exception_is_read_back_with_its_moment(tmp_path):
    path = tmp_path / "error.json"
    before = time.monotonic()
    write_exception(path, ValueError("x"), "in main, rank 1")
    record = read_error(path)
    assert record.message == "ValueError: x\nin main, rank 1"
    assert (record.exit_code, record.is_sentence) == (1, False)
    assert before <= record.told_s <= time.monotonic()


def test_the_moment_is_that_of_the_mistake_however_late_it_is_written(tmp_path):
    path = tmp_path / "error.json"
    write_error(path, "wrong", at_s=12.5)
    assert read_error(path).told_s == 12.5
    write_exception(path, ValueError("x"), "in main, rank 1", at_s=13.5)
    assert read_error(path).told_s == 13.5


@pytest.mark.parametrize("told_s", [None, "1", True, float("nan"), float("inf")])
def test_a_moment_that_is_none_is_left_out(told_s):
    record = parse_error({"message": "x", "relaunch": {"exit_code": 2, "told_s": told_s}})
    assert record == ErrorRecord(message="x", exit_code=2)


def test_torch_can_read_ours(tmp_path):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    path = tmp_path / "error.json"
    write_error(path, "wrong", exit_code=2)
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(path))
    assert failure.message["message"] == "wrong"


def test_nowhere_to_write(tmp_path):
    assert not write_error(None, "x")
    assert not write_error(tmp_path / "missing" / "error.json", "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"message": "plain"}, "plain"),
        ({"message": {"message": "ValueError: x", "extraInfo": {}}}, "ValueError: x"),
        ({"message": "x", "relaunch": "odd"}, "x"),
        ({"message": "  "}, None),
        ({"message": {"message": 3}}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_foreign_content(content, message):
    record = parse_error(content)
    assert (record and record.message) == message
    assert record is None or not record.is_sentence


@pytest.mark.parametrize("text", ["", "{", json.dumps([1])])
def test_unreadable(tmp_path, text):
    path = tmp_path / "error.json"
    assert read_error(path) is None
    path.write_text(text)
    assert read_error(path) is None
