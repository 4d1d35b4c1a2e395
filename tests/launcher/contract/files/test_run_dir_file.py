"""Where a run is kept: asked for, told by the run, or assumed."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.agent.attempts.history import AttemptHistory
from launcher.agent.attempts.restart_policy import RestartDecision
from launcher.contract.files.run_dir_file import tell_folder, told_folder
from launcher.contract.launcher_signals import SignalInbox
from launcher.contract.run_options import RunOptions
from launcher.plan.assumed_folder import assumed_folder
from launcher.plan.program import Program, ProgramKind
from launcher.rendezvous.messages import NodeEnd
from launcher.run_folder.jsonl import EVENTS


def plan(run_dir=None, uses_run=True, kind=ProgramKind.SCRIPT, name="sub/train.py"):
    program = Program(kind=kind, name=name, args=())
    run = RunOptions(run_dir=run_dir)
    return SimpleNamespace(run=run, uses_run=uses_run, program=program, max_restarts=0)


def end(run_dir=None):
    fields = {"num_ranks": 1, "failure": None, "lived_s": 1.0, "joined": True}
    more = {"gives_signs": True, "step": 4, "error": None, "report": ""}
    return NodeEnd(code=75, run_dir=None if run_dir is None else str(run_dir), **fields, **more)


@pytest.mark.parametrize(
    ("asked", "folder"),
    [
        (plan(), Path("runs/train")),
        (plan(name="folder"), Path("runs/folder")),
        (plan(Path("/there")), Path("/there")),
        (plan(kind=ProgramKind.MODULE, name="json.tool"), Path("runs/tool")),
        (plan(kind=ProgramKind.COMMAND, name="bash"), None),
        (plan(uses_run=False), None),
        (plan(Path("/there"), uses_run=False), Path("/there")),
    ],
)
def test_assumed(asked, folder):
    assert assumed_folder(asked) == folder


def test_a_rank_tells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tell_folder(None, Path("nowhere"))
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "told"
    assert told_folder(file) is None
    tell_folder(file, Path("some/where ü"))
    assert told_folder(file) == tmp_path / "some" / "where ü"


@pytest.fixture
def history_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda asked: AttemptHistory(asked, SignalInbox(), print)


def events(folder):
    return [json.loads(line) for line in (folder / EVENTS).read_text().splitlines()]


def test_what_the_run_says_counts_and_is_kept(history_of, tmp_path):
    history = history_of(plan())
    assert history.folder({0: end()}) == Path("runs/train")
    there = tmp_path / "chosen"
    assert history.folder({0: end(), 1: end(there)}) == there
    assert history.folder({0: end()}) == there
    assert history_of(plan(tmp_path / "asked")).folder({0: end(there)}) == tmp_path / "asked"
    assert not (tmp_path / "runs").exists()


def test_an_attempt_is_recorded_where_the_run_is(history_of, tmp_path):
    there = tmp_path / "chosen"
    there.mkdir()
    (there / EVENTS).touch()
    history_of(plan()).record({0: end(there)}, 75, RestartDecision(restart=False), "")
    (record,) = events(there)
    assert (record["event"], record["code"], record["step"]) == ("attempt", 75, 4)
    history_of(plan()).record({0: end()}, 75, RestartDecision(restart=False), "")
    assert not (tmp_path / "runs").exists()


def test_the_text_of_an_error_is_recorded_without_secrets(history_of, tmp_path, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", "from-environ")
    asked = plan(tmp_path)
    asked.program = Program(kind=ProgramKind.SCRIPT, name="t.py", args=("--password", "from-args"))
    text = "OSError: from-environ, from-args, https://me:pw@host/x"
    failed = replace(end(tmp_path), error=text)
    history_of(asked).record({0: failed}, 1, RestartDecision(restart=False), f"again: {text}")
    (record,) = events(tmp_path)
    assert record["error"] == "OSError: ***, ***, https://***@host/x"
    assert record["reason"] == f"again: {record['error']}"
    assert record["code"] == 1


def test_a_record_that_was_begun_elsewhere_is_told(history_of, tmp_path):
    before, there = tmp_path / "runs" / "train", tmp_path / "chosen"
    before.mkdir(parents=True)
    (before / EVENTS).touch()
    history = history_of(plan())
    for _ in range(2):
        assert history.folder({0: end(there)}) == there
    (told,) = events(before)
    assert (told["event"], told["path"]) == ("run folder", str(there))
    history_of(plan()).folder({0: end(before)})
    assert len(events(before)) == 1
