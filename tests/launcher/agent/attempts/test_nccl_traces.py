"""The record of NCCL's collectives that a hanging rank is asked for."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.agent.attempts.nccl_traces import ask_for_traces, wait_for_traces

Listen = Callable[[int], tuple[Path, int]]


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listen]:
    """Make a rank's pipe as torch does: opened for reading, without waiting."""
    fds: list[int] = []

    def listen(rank: int) -> tuple[Path, int]:
        path = tmp_path / f"nccl-dump-{rank}.pipe"
        os.mkfifo(path)
        fds.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        return path, fds[-1]

    yield listen
    for fd in fds:
        os.close(fd)


def test_ranks_that_listen_are_asked(tmp_path: Path, listening: Listen) -> None:
    path, fd = listening(3)
    unheard = tmp_path / "nccl-dump-4.pipe"
    os.mkfifo(unheard)
    pipes = {3: path, 4: unheard, 5: tmp_path / "nccl-dump-5.pipe"}
    assert ask_for_traces(pipes) == (3,)
    assert os.read(fd, 128) == b"1"
    assert not pipes[5].exists()


def test_on_cpus_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda s: pytest.fail("waited"))
    assert wait_for_traces(tmp_path, ()) == ""
    assert wait_for_traces(None, (1,)) == ""


def test_records_are_named_once_they_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nccl-trace-rank-2"
    sizes = iter([b"", b"half", b"half and half"])
    monkeypatch.setattr(time, "sleep", lambda s: path.write_bytes(next(sizes, b"half and half")))
    assert wait_for_traces(tmp_path, (2,)) == (
        f"; which collectives they were in: {tmp_path}/nccl-trace-rank-* (torchfrtrace reads them)"
    )
    assert path.read_bytes() == b"half and half"


def test_who_does_not_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "nccl-trace-rank-0").write_bytes(b"x")
    said = wait_for_traces(tmp_path, (0, 1, 7), bound_s=0.0)
    assert said == "; no rank wrote which collectives it was in within 0 s"
    said = wait_for_traces(tmp_path, (0, 1, 7), bound_s=0.15)
    assert said.endswith(", without that of ranks 1, 7")
