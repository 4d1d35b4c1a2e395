"""Lines, prefixes, files."""

import os

import pytest

from launcher.agent.output import log_folder
from launcher.agent.output.console_policy import Share, shares, wants_logs
from launcher.agent.output.line_splitter import LineSplitter, PieceHolder
from launcher.agent.output.log_folder import LogFolder, next_attempt
from launcher.agent.output.rank_output import RankOutput
from launcher.plan.options import StreamOptions


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
    ("chunks", "shown"),
    [
        ([b"from", b" ", b"0", b"\n"], [b"", b"", b"", b"from 0\n"]),
        ([b"a\nb", b""], [b"a\n", b"b"]),
        ([b"\r10%", b"\r20%", b""], [b"\r", b"10%\r", b"20%"]),
        ([b"123456789", b"0"], [b"123456789", b""]),
        ([b""], [b""]),
    ],
)
def test_pieces_are_held_back(chunks, shown):
    holder = PieceHolder(max_bytes=8)
    assert [holder.feed(chunk) for chunk in chunks] == shown


@pytest.mark.parametrize(
    ("names", "number"),
    [([], 1), (["attempt-0"], 1), (["attempt-2", "attempt-10"], 11), (["attempt-x", "other"], 1)],
)
def test_next_attempt(names, number):
    assert next_attempt(names) == number


@pytest.mark.parametrize(
    ("options", "has_logs", "streams"),
    [
        ({}, False, [3, 3, 3]),
        ({}, True, [3, 0, 0]),
        ({"redirects": 3}, True, [0, 0, 0]),
        ({"redirects": 1}, True, [2, 2, 2]),
        ({"redirects": {0: 3, 2: 2}}, True, [0, 3, 1]),
        ({"tee": 3}, True, [3, 3, 3]),
        ({"redirects": 3, "tee": {1: 3}}, True, [0, 3, 0]),
        ({"shown": frozenset({1})}, True, [0, 3, 0]),
        ({"shown": frozenset({1}), "tee": 1}, True, [0, 3, 0]),
        ({"redirects": 0}, False, [3, 3, 3]),
    ],
)
def test_what_the_console_shows(options, has_logs, streams):
    found = shares(
        StreamOptions(**options),
        ranks={0: 0, 1: 1, 2: 2},
        role="default",
        has_logs=has_logs,
        hostname="h",
    )
    assert [found[rank].streams for rank in (0, 1, 2)] == streams


def test_prefixes():
    here = {"ranks": {4: 0, 5: 1}, "role": "r", "hostname": "node7"}
    assert shares(StreamOptions(), **here, has_logs=False) == {
        4: Share(streams=3, prefix="[rank 4] "),
        5: Share(streams=3, prefix="[rank 5] "),
    }
    only = StreamOptions(shown=frozenset({1}))
    assert shares(only, **here, has_logs=True)[5] == Share(streams=3, alone=True)
    template = "${hostname} ${role_name}${local_rank}/${rank}: "
    found = shares(StreamOptions(), **here, has_logs=False, template=template)
    assert found[5].prefix == "node7 r1/5: "
    option = StreamOptions(prefix_template="${rank}>")
    assert shares(option, **here, has_logs=False, template=template)[5].prefix == "5>"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, False),
        ({"redirects": 0}, False),
        ({"redirects": 1}, True),
        ({"tee": {0: 0, 1: 2}}, True),
        ({"shown": frozenset({1})}, False),
        ({"stdout_filters": ("x",)}, True),
    ],
)
def test_what_needs_files(options, wanted):
    assert wants_logs(StreamOptions(**options)) is wanted


def write(output, rank, stdout=b"", stderr=b""):
    with output.streams(rank) as streams:
        os.write(streams.stdout, stdout)
        os.write(streams.stderr, stderr)


def test_of_a_progress_bar_the_last_lines_have_what_it_showed_last(tmp_path, capfd):
    output = RankOutput({0: Share(streams=0)}, LogFolder.create(tmp_path / "logs", print))
    write(output, 0, b"begun\n" + b"\r".join(b"%3d%%" % n for n in range(101)) + b"\nfailed\n")
    output.finish(5.0)
    assert output.tail(0) == ["begun", "100%", "failed"]
    assert capfd.readouterr() == ("", "")


def test_a_rank_that_is_not_shown_keeps_the_order_of_its_streams(tmp_path, capfd):
    logs = LogFolder.create(tmp_path / "logs", print)
    output = RankOutput({12: Share(streams=0)}, logs)
    write(output, 12, b"one\n", b"two\nunfinished")
    output.finish(5.0)
    assert output.log_path(12) == tmp_path / "logs" / "attempt-1" / "rank-12.log"
    assert output.log_path(12).read_bytes() == b"one\ntwo\nunfinished\n"
    assert output.tail(12) == ["one", "two", "unfinished"]
    assert capfd.readouterr() == ("", "")
    assert LogFolder.create(tmp_path / "logs", print).path.name == "attempt-2"


def test_prefixed_and_whole_output_on_the_console(capfd, tmp_path):
    logs = LogFolder.create(tmp_path, print)
    output = RankOutput({0: Share(streams=3), 3: Share(streams=3, prefix="[rank 3] ")}, logs)
    write(output, 3, b"one\ntwo\n", b"bad\n")
    write(output, 0, b"50%\r", b"100%")
    output.finish(5.0)
    out, err = capfd.readouterr()
    assert sorted(out) == sorted("[rank 3] one\n[rank 3] two\n50%\r")
    assert sorted(err) == sorted("[rank 3] bad\n100%")
    assert output.errors(3) == ["bad"]
    assert sorted(output.tail(3)) == ["bad", "one", "two"]
    assert (tmp_path / "attempt-1" / "rank-0.log").read_bytes() in (
        b"50%\r\n100%\n",
        b"100%\n50%\r\n",
    )


def test_lines_are_copied_by_filters(tmp_path):
    logs = LogFolder.create(tmp_path, print)
    output = RankOutput({0: Share(streams=0)}, logs, {1: ("apple", "pear")})
    write(output, 0, b"an apple\na plum\npears\n", b"an apple\n")
    output.finish(5.0)
    folder = tmp_path / "attempt-1"
    assert (folder / "filtered_stdout.log").read_bytes() == b"an apple\npears\n"
    assert not (folder / "filtered_stderr.log").exists()


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path):
    (tmp_path / "file").touch()
    said = []
    assert LogFolder.create(tmp_path / "file" / "logs", said.append) is None
    assert said[0].startswith(f"warning: no logs are written: {tmp_path}/file")


def test_a_full_disk_is_said_once(tmp_path, monkeypatch):
    said = []
    logs = LogFolder.create(tmp_path, said.append)
    full = lambda path, flags: os.open("/dev/full", os.O_WRONLY)  # noqa: E731
    monkeypatch.setattr(log_folder, "open_plain", full)
    logs.append(logs.rank_log(0), b"x")
    logs.append(logs.rank_log(0), b"y")
    assert said == [f"warning: {logs.rank_log(0)} cannot be written (No space left on device)."]
