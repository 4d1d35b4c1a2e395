"""The steps of a command are read from its own part of a file; processes are found by a mark."""

import os
import subprocess
import sys
from pathlib import Path

from launcher.commands.rehearse.processes import MARK, StepTrace, marked, wait_until


def test_the_steps_of_a_command_are_those_after_its_start(tmp_path: Path) -> None:
    path = tmp_path / "rank-0.jsonl"
    path.write_text('{"step": 7}\n')
    trace = StepTrace(path)
    assert trace.newest() is None
    with path.open("a") as file:
        file.write('{"rank": 0}\n{"step": 3}\n{"step": 3}\n{"st')
    assert trace.newest() == 3
    with path.open("a") as file:
        file.write('ep": 4}\n{"step"{"step": 9}\n{"step": 2}\n')
    assert trace.newest() == 2
    assert trace.steps == [3, 4, 2]


def test_a_file_that_is_not_there_yet_is_no_step(tmp_path: Path) -> None:
    assert StepTrace(tmp_path / "rank-0.jsonl").newest() is None


def test_a_process_is_found_by_its_mark() -> None:
    mark = f"{MARK}={os.urandom(8).hex()}"
    name, _, value = mark.partition("=")
    command = [sys.executable, "-S", "-c", "input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env={**os.environ, name: value}
    ) as process:
        assert wait_until(lambda: marked(mark) == [process.pid], 10.0)
        assert process.stdin is not None
        process.stdin.close()
    assert marked(mark) == []


def test_a_wait_has_a_bound() -> None:
    assert not wait_until(lambda: False, 0.0)
    assert wait_until(lambda: True, 0.0)
