"""A second report reads what is new, and says what one that reads everything says."""

import json
import os
import random
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from launcher.run_folder.lines import reading
from launcher.run_folder.records import kept_summary
from launcher.run_folder.records.kept_summary import kept_beside, summary_of
from launcher.run_folder.records.summary import RecordSummary


def line(step: int, attempt: int = 1) -> bytes:
    draw = random.Random(step)
    record: dict[str, Any] = {"step": step, "attempt": attempt, "time": 100.0 * attempt + step}
    record |= {"loss": draw.gauss(0, 1), "lr": 0.1 + 1e-9 * step}
    if step % 7 == 0:
        record |= {"val/loss": draw.random(), "val/\x1bx": 1.0, "evaluation_s": 0.1}
    if step % 50 == 0:
        record["val/table"] = [[float(step), None]]
    return json.dumps(record).encode() + b"\n"


def lines(first: int, last: int, attempt: int = 1) -> bytes:
    return b"".join(line(step, attempt) for step in range(first, last + 1))


def whole(metrics: Path) -> tuple[dict[str, Any], int]:
    """What one that keeps nothing says."""
    found = reading.Lines(metrics, kept_summary.is_metric)
    return RecordSummary(found).state(), found.skipped


@pytest.fixture(name="metrics")
def _metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept_summary, "LEAST_BYTES", 1)
    monkeypatch.setattr(kept_summary, "BLOCK_BYTES", 4096)
    return tmp_path / "metrics.jsonl"


@pytest.fixture(name="num_read")
def _num_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the lines that are parsed since the last call."""
    count = 0
    real = reading.Lines.records

    def records(self: reading.Lines, block: list[bytes]) -> Any:
        nonlocal count
        count += len(block)
        return real(self, block)

    def since() -> int:
        nonlocal count
        found, count = count, 0
        return found

    monkeypatch.setattr(reading.Lines, "records", records)
    return since


def say(metrics: Path) -> tuple[dict[str, Any], int]:
    summary, skipped = summary_of(metrics)
    return summary.state(), skipped


def test_only_what_is_new_is_read(metrics: Path, num_read: Callable[[], int]) -> None:
    at = 0
    for more in (300, 1, 0, 57, 4500):
        with metrics.open("ab") as file:
            file.write(lines(at + 1, at + more))
        at += more
        said = say(metrics)
        assert num_read() == more
        assert said == whole(metrics)
        num_read()


def test_a_line_that_is_being_written_is_read_again(
    metrics: Path, num_read: Callable[[], int]
) -> None:
    half = line(11)[:20]
    metrics.write_bytes(lines(1, 10) + b"no record\n" + half)
    assert say(metrics) == whole(metrics)
    assert say(metrics)[1] == 2  # the half line, too, as long as it is one
    with metrics.open("ab") as file:
        file.write(line(11)[20:])
    num_read()
    assert say(metrics) == whole(metrics)
    assert say(metrics)[1] == 1
    assert say(metrics)[0]["count"] == 11


def edited(metrics: Path) -> None:
    with metrics.open("r+b") as file:
        file.write(line(3))
    os.utime(metrics, ns=(1, 1))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "cut by a resume": lambda m: os.truncate(m, len(lines(1, 150))),
    "cut, and longer again": lambda m: m.open("r+b").write(lines(1, 150) + lines(151, 400, 2)),
    "another file": lambda m: (
        m.rename(m.with_name("old")),
        m.write_bytes(lines(500, 900)),
    ),
    "a copy of it": lambda m: (m.rename(m.with_name("old")), m.write_bytes(lines(1, 300))),
    "edited in place": edited,
    "gone": lambda m: m.unlink(),
    "emptied": lambda m: m.write_bytes(b""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_file_is_read_whole(
    change: str, metrics: Path, num_read: Callable[[], int]
) -> None:
    metrics.write_bytes(lines(1, 300))
    say(metrics)
    CHANGES[change](metrics)
    num_read()
    said = say(metrics)
    read = num_read()
    assert said == whole(metrics)
    assert read == (metrics.read_bytes().count(b"\n") if metrics.exists() else 0)
    assert said == say(metrics)


def _with(**changes: Any) -> Callable[[bytes], bytes]:
    def change(text: bytes) -> bytes:
        content = json.loads(text.partition(b"\n")[2])
        body = json.dumps(content | changes).encode()
        return sha256(body).hexdigest().encode() + b"\n" + body + b"\n"

    return change


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "cut": lambda text: text[: len(text) // 2],
    "one digit": lambda text: text.replace(b'"count":300', b'"count":301', 1),
    "no JSON": lambda text: sha256(b"{").hexdigest().encode() + b"\n{\n",
    "of another version": _with(format=[0, 2000]),
    "of another shape": _with(summary={"count": 300}),
    "another's": _with(covered={"inode": 1}),
    "a list": lambda text: sha256(b"[1]").hexdigest().encode() + b"\n[1]\n",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_summary_is_not_used(
    damage: str, metrics: Path, num_read: Callable[[], int]
) -> None:
    metrics.write_bytes(lines(1, 300))
    say(metrics)
    text = kept_beside(metrics).read_bytes()
    assert DAMAGE[damage](text) != text
    kept_beside(metrics).write_bytes(DAMAGE[damage](text))
    num_read()
    said = say(metrics)
    assert num_read() == 300
    assert said == whole(metrics)
    assert kept_beside(metrics).read_bytes() == text


def test_a_short_file_has_no_summary(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(lines(1, 300))
    assert say(metrics)[0]["count"] == 300
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_summary_that_cannot_be_written_is_no_error(metrics: Path) -> None:
    metrics.write_bytes(lines(1, 300))
    kept_beside(metrics).mkdir()
    (kept_beside(metrics) / "file").touch()
    assert say(metrics) == whole(metrics)


def test_a_summary_is_bounded(metrics: Path) -> None:
    """Twice the records, the same summary: each curve has its most points in both."""
    metrics.write_bytes(lines(1, 4_000))
    say(metrics)
    size = kept_beside(metrics).stat().st_size
    with metrics.open("ab") as file:
        file.write(lines(4_001, 8_000))
    say(metrics)
    assert kept_beside(metrics).stat().st_size < 1.3 * size
