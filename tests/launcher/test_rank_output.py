"""Lines, prefixes, files."""

import pytest

from launcher.output import LineSplitter, LogFiles, PrefixedConsole, last_lines, next_attempt


@pytest.mark.parametrize(
    ("chunks", "lines", "rest"),
    [
        ([b"a\nb\n"], [b"a\n", b"b\n"], b""),
        ([b"a", b"b\nc"], [b"ab\n"], b"c\n"),
        ([b"\n"], [b"\n"], b""),
        ([b"\xff\x00\n"], [b"\xff\x00\n"], b""),
        ([b"12345678", b"9\n"], [b"12345678\n", b"9\n"], b""),
        ([b"a\r50%\r"], [], b"a\r50%\r\n"),
        ([], [], b""),
    ],
)
def test_line_splitter(chunks, lines, rest):
    splitter = LineSplitter(max_line_bytes=8)
    assert [line for chunk in chunks for line in splitter.feed(chunk)] == lines
    assert splitter.flush() == rest
    assert splitter.flush() == b""


@pytest.mark.parametrize(
    ("names", "number"),
    [([], 0), (["attempt-0"], 1), (["attempt-2", "attempt-10"], 11), (["attempt-x", "other"], 0)],
)
def test_next_attempt(names, number):
    assert next_attempt(names) == number


def test_last_lines(tmp_path):
    path = tmp_path / "log"
    assert last_lines(path, 3) == []
    path.write_bytes(b"\n".join(b"%d" % number for number in range(100_000)) + b"\n\xff")
    assert last_lines(path, 3) == ["99998", "99999", "\ufffd"]


def test_log_files_leave_rank_0_alone(tmp_path):
    output = LogFiles(tmp_path / "logs")
    assert output.log_path(0) is None
    with output.streams(0) as streams:
        assert (streams.stdout, streams.stderr) == (None, None)
    with output.streams(12) as streams:
        assert streams.stdout is streams.stderr
    assert output.log_path(12) == tmp_path / "logs" / "attempt-0" / "rank-12.log"
    assert LogFiles(tmp_path / "logs").folder.name == "attempt-1"


def test_prefixed_console(capfd):
    import os

    output = PrefixedConsole()
    with output.streams(3) as streams:
        os.write(streams.stdout, b"one\ntw")
        os.write(streams.stdout, b"o")
        os.write(streams.stderr, b"bad\n")
    output.finish(5.0)
    out, err = capfd.readouterr()
    assert (out, err) == ("[rank 3] one\n[rank 3] two\n", "[rank 3] bad\n")
