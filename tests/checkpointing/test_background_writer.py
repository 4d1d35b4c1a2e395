"""What a writer process does with an image that is not whole yet."""

import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpointing.background_writer import BackgroundWriter
from checkpointing.writer_process import _Requests

BLOCK = 4096
SIZE = 10 * BLOCK + 17


@pytest.fixture
def writer() -> Iterator[BackgroundWriter]:
    writer = BackgroundWriter(limit_s=lambda _: 30.0)
    yield writer
    writer.close()


def fill(writer: BackgroundWriter, start: int, end: int, byte: int) -> None:
    writer.image(SIZE)[start:end] = bytes([byte]) * (end - start)


def crc32_of(content: bytes) -> list[int]:
    return [zlib.crc32(content[i : i + BLOCK]) for i in range(0, len(content), BLOCK)]


def answer_of(writer: BackgroundWriter) -> dict[str, object]:
    answer = writer.receive(wait=True)
    assert answer is not None
    return dict(answer)


@pytest.mark.parametrize("ready_bytes", [0, 1, BLOCK, 3 * BLOCK + 5, 10 * BLOCK, SIZE - 1])
def test_what_is_not_there_yet_is_waited_for(
    writer: BackgroundWriter, tmp_path: Path, ready_bytes: int
) -> None:
    path = tmp_path / "shard"
    fill(writer, 0, SIZE, 1)
    writer.submit(path, SIZE, BLOCK, ready_bytes=ready_bytes)
    time.sleep(0.3)
    assert writer.receive(wait=False) is None
    fill(writer, ready_bytes, SIZE, 2)
    writer.complete()
    content = b"\1" * ready_bytes + b"\2" * (SIZE - ready_bytes)
    assert answer_of(writer) == {"value": crc32_of(content)}
    assert path.read_bytes() == content


def test_what_is_there_is_written_meanwhile(writer: BackgroundWriter, tmp_path: Path) -> None:
    path = tmp_path / "shard"
    fill(writer, 0, SIZE, 1)
    writer.submit(path, SIZE, BLOCK, ready_bytes=5 * BLOCK)
    until_s = time.monotonic() + 30
    while not path.exists() or path.read_bytes()[: 5 * BLOCK] != b"\1" * (5 * BLOCK):
        assert time.monotonic() < until_s
        time.sleep(0.02)
    writer.complete()
    assert "value" in answer_of(writer)


def test_a_whole_image_needs_no_word(writer: BackgroundWriter, tmp_path: Path) -> None:
    fill(writer, 0, SIZE, 3)
    writer.submit(tmp_path / "shard", SIZE, BLOCK)
    assert answer_of(writer) == {"value": crc32_of(b"\3" * SIZE)}
    writer.complete()  # too late, and for nothing


def test_removals_meanwhile_come_after_it(writer: BackgroundWriter, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    fill(writer, 0, SIZE, 1)
    writer.submit(tmp_path / "shard", SIZE, BLOCK, ready_bytes=0)
    writer.remove(old)
    writer.complete()
    assert "value" in answer_of(writer)
    writer.submit(tmp_path / "another", SIZE, BLOCK)
    assert "value" in answer_of(writer)
    assert not old.exists()
    assert writer.not_removed() == []


def test_the_word_of_a_failed_write_is_not_taken_for_the_next_one(
    writer: BackgroundWriter, tmp_path: Path
) -> None:
    fill(writer, 0, SIZE, 1)
    taken = tmp_path / "taken"
    taken.touch()
    writer.submit(taken, SIZE, BLOCK, ready_bytes=0)
    time.sleep(0.3)  # it has failed, which nobody has looked at
    writer.complete()
    assert "taken" in str(answer_of(writer)["error"])
    writer.submit(tmp_path / "shard", SIZE, BLOCK, ready_bytes=0)
    time.sleep(0.3)
    assert writer.receive(wait=False) is None
    writer.complete()
    assert "value" in answer_of(writer)


def test_the_time_counts_from_when_all_is_there(tmp_path: Path) -> None:
    writer = BackgroundWriter(limit_s=lambda _: 1.5)
    fill(writer, 0, SIZE, 1)
    writer.submit(tmp_path / "shard", SIZE, BLOCK, ready_bytes=0)
    time.sleep(2.0)
    writer.complete()
    assert "value" in answer_of(writer)
    writer.close()


def test_a_writer_that_died_while_it_waited_is_told(
    writer: BackgroundWriter, tmp_path: Path
) -> None:
    fill(writer, 0, SIZE, 1)
    writer.submit(tmp_path / "shard", SIZE, BLOCK, ready_bytes=0)
    assert writer._process is not None
    os.kill(writer._process.pid, 9)
    writer._process.wait()
    writer.complete()
    assert "signal 9" in str(answer_of(writer)["died"])


def test_requests_come_in_their_order_and_old_words_are_dropped() -> None:
    asked = [
        {"id": 1, "kind": "write"},
        {"id": 0, "kind": "ready"},
        {"id": 2, "kind": "remove"},
        {"id": 1, "kind": "ready"},
        {"id": 3, "kind": "write"},
    ]
    requests = _Requests(iter([json.dumps(one) for one in asked]))
    taken = iter(requests)
    assert next(taken)["id"] == 1
    requests.wait_until_ready(1)
    assert [one["id"] for one in taken] == [2, 3]


def test_a_rank_that_is_gone_ends_the_wait() -> None:
    with pytest.raises(SystemExit, match="the rank is gone"):
        _Requests(iter([])).wait_until_ready(1)
