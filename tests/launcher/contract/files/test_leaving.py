"""A rank says that it may be ended."""

import time

import pytest

from launcher.contract.environment import RankFiles
from launcher.contract.exit_codes import CONTINUE
from launcher.contract.files.leaving import (
    Leaving,
    others_left,
    read_leaving,
    tell_leaving,
    told_leaving,
)


def test_what_is_told_is_read(tmp_path):
    path, before = tmp_path / "rank-0-leaving", time.monotonic()
    assert told_leaving(path) is None
    tell_leaving(path, CONTINUE)
    assert told_leaving(path) == CONTINUE
    assert before <= read_leaving(path).told_s <= time.monotonic()
    assert [entry.name for entry in tmp_path.iterdir()] == ["rank-0-leaving"]


def test_where_it_cannot_be_told_nothing_happens(tmp_path):
    tell_leaving(None, CONTINUE)
    tell_leaving(tmp_path / "no" / "folder", CONTINUE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "75", "[]", "null", '{"code": 75}', '{"code": "75", "told_s": 1.0}'),
        *('{"code": 75, "told_s": NaN}', '{"code": 75, "told_s": null}'),
    ],
)
def test_what_is_no_word_of_a_rank_is_none(tmp_path, text):
    path = tmp_path / "leaving"
    path.write_text(text)
    assert told_leaving(path) is None


def test_the_last_word_counts(tmp_path):
    path = tmp_path / "leaving"
    tell_leaving(path, 0)
    tell_leaving(path, CONTINUE)
    assert read_leaving(path) == Leaving(code=CONTINUE, told_s=read_leaving(path).told_s)


def test_whether_another_rank_of_the_node_has_left(tmp_path):
    mine, other = (RankFiles.of(tmp_path, rank).leaving for rank in (0, 1))
    assert not others_left(None, 75)
    tell_leaving(mine, 75)
    assert not others_left(mine, 75)  # oneself is no other
    tell_leaving(other, 0)
    assert not others_left(mine, 75)
    tell_leaving(other, 75)
    assert others_left(mine, 75)
