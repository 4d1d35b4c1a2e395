"""One bad line, wherever it comes from, keeps nobody from the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.run_folder.folder import RunFolder
from launcher.run_folder.history import read_run
from launcher.run_folder.jsonl import append_event, metrics_of
from launcher.run_folder.lines.fields import is_event, is_metric, is_whole_event, parse
from launcher.run_folder.lines.reading import Lines, newest

BAD = [
    b"\xff\xfe",
    b"1",
    b"null",
    b'"text"',
    b"[1]",
    b"{",
    b"<<<<<<< HEAD",
    b"\x00" * 40,
    b"[" * 100_000,
    b'{"a": ' + b"9" * 5000 + b"}",
    b"{}",
    b'{"step": "x"}',
    b'{"step": true}',
    b'{"step": 1, "loss": "low"}',
    b'{"step": 1, "val/loss": "low"}',
    b'{"step": 1, "time": null}',
    b'{"event": 1}',
    b'{"event": "saved", "time": "yesterday"}',
    b'{"event": "saved", "time": "2030-01-01T00:00:00"}',
    b'{"event": "saved", "time": "2030-01-01T00:00:00+00:00", "step": "x"}',
]


@pytest.mark.parametrize("line", BAD)
def test_it_is_no_record(line: bytes) -> None:
    found = parse(line)
    assert found is None or not (is_event(found) or is_metric(found))


@pytest.mark.parametrize("line", BAD)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_bad_line_is_left_out_and_counted(line: bytes, where: str, tmp_path: Path) -> None:
    good = [json.dumps({"step": n}).encode() for n in (1, 2)]
    lines = {"first": [line, *good], "middle": [good[0], line, good[1]], "last": [*good, line]}
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n\n".join(lines[where]) + (b"" if where == "last" else b"\n"))
    for order in (iter, reversed):
        found = Lines(path, is_metric)
        assert sorted(r["step"] for r in order(found)) == [1, 2]
        assert found.skipped == 1


def test_a_start_reads_an_ill_folder(tmp_path: Path) -> None:
    told: list[str] = []
    folder = RunFolder(tmp_path)
    folder.warn = told.append
    folder.event("saved", step=4, size_bytes=1, seconds=1.0, stall_s=0.5)
    folder.metrics({"step": 4})
    folder.metrics({"step": 5})
    for name in ("events.jsonl", "metrics.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b"\n".join(BAD) + b"\n")
    folder.event("end", step=5, ending="completed", reason="done")
    assert [e["event"] for e in folder.recent_events()] == ["saved", "end"]
    assert f"{len(BAD)} lines are not records" in told[0]
    assert folder.forget_metrics_after(4).steps == 1
    assert [r["step"] for r in metrics_of(tmp_path)] == [4]


@pytest.mark.parametrize("text", [*BAD[:9], b""])
def test_a_description_that_is_none(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(text)
    assert RunFolder(tmp_path).description() == {}


def test_a_report_says_how_much_it_left_out(tmp_path: Path) -> None:
    append_event(tmp_path, "start", attempt=1)  # of another program: it has no strategy
    append_event(tmp_path, "note", sentence="ours")
    (tmp_path / "metrics.jsonl").write_bytes(b"1\n\xff\n")
    facts = read_run(tmp_path)
    assert [e["event"] for e in facts.events] == ["note"]
    assert facts.skipped == {"events.jsonl": 1, "metrics.jsonl": 2}


NOW = "2030-01-01T00:00:00.000+00:00"


@pytest.mark.parametrize(
    ("event", "is_whole"),
    [
        ({"event": "note", "sentence": "a"}, True),
        ({"event": "note"}, False),
        ({"event": "unknown"}, True),
        ({"event": "end", "step": 1, "ending": "completed", "reason": None}, False),
        ({"event": "attempt", "code": 1, "step": None, "error": None, "reason": None}, True),
    ],
)
def test_an_event_has_what_its_sentence_needs(event: dict[str, Any], is_whole: bool) -> None:
    assert is_event(event)
    assert is_whole_event({"time": NOW, **event}) == is_whole
    assert not is_whole_event(event)


def test_the_newest_are_a_bounded_part(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {n:5}}}\n' for n in range(10_000, 20_000)))
    found, skipped = newest(path, is_metric, 1000)
    assert skipped == 0
    assert [r["step"] for r in found] == list(range(20_000 - 62, 20_000))
    assert newest(tmp_path / "none", is_metric, 1000) == ([], 0)


@pytest.mark.parametrize(
    ("lines", "steps"),
    [
        ([b'{"step": 1}\n', b'{"step": 2}\n'], [1, 2]),
        ([b'{"step": 1}\n', b'{"step": 2}'], [1, 2]),
        ([b'{"step": 1}, {"step": 2}\n', b'{"step": 3}\n'], [3]),
        ([b'{"step": 1, "a": {"b": 2}\n', b'{"step": 3}\n'], [3]),
        ([b'{"step": 1}\n', b"{}\n"], [1]),
        ([b'{"step": 1}\n', b"\xff}\n", b'{"step": 2}\n'], [1, 2]),
    ],
)
def test_lines_that_are_parsed_together_are_what_each_is(
    lines: list[bytes], steps: list[int], tmp_path: Path
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(lines))
    found = Lines(path, is_metric)
    assert [r["step"] for r in found] == steps
    assert found.skipped == len(lines) - len(steps)
