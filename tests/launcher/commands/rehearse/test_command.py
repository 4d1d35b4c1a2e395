"""What `relaunch rehearse` refuses, and what it prints without starting anything."""

import shutil
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.commands.rehearse import command, run
from launcher.commands.rehearse.choosing import chosen_kinds
from launcher.commands.rehearse.draw import Fault
from launcher.commands.rehearse.evidence import Evidence
from launcher.commands.rehearse.kinds import KINDS
from launcher.commands.rehearse.network import Network, NoNetworkError
from launcher.commands.rehearse.one_fault import (
    MISSED,
    MISSED_AGAIN,
    OWN_STRATEGY,
    Outcome,
    Rehearsal,
)
from launcher.errors import UsageError


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("from launcher import Run\n")
    return "train.py"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "no script is given"),
        (("--faults", "0", "train.py"), "--faults 0: it must be at least 1"),
        (("--steps", "3", "train.py"), "--steps 3: it must be at least 4"),
        (("--nproc-per-node", "0", "train.py"), "--nproc-per-node 0"),
        (("--nnodes", "0", "train.py"), "--nnodes 0: it must be at least 1"),
        (("--only", "node-killed", "train.py"), "pass --nnodes 2"),
        (("--nnodes", "2", "--only", "kill-rank", "train.py"), "leave out --nnodes 2"),
        (("--save-every", "40", "train.py"), "--save-every 40 must be from 1 to 39"),
        (("--", "--run-dir", "x", "train.py"), "--run-dir is for relaunch rehearse itself"),
        (("--", "--strategy=fsdp", "train.py"), "--strategy=fsdp is for relaunch rehearse"),
        (("missing.py",), "missing.py"),
        (("--strategy", "fdsp", "train.py"), "fdsp"),
    ],
)
def test_what_is_refused_before_anything_starts(
    words: tuple[str, ...], sentence: str, script: str
) -> None:
    with pytest.raises(UsageError) as refused:
        run(words)
    assert sentence in str(refused.value)
    assert not Path("runs").exists()


def test_an_option_of_the_script_is_the_scripts(script: str) -> None:
    given = command.build_parser().parse_args([script, "--run-dir", "x", "--strategy=9"])
    assert command._rehearsal(given).words == (script, "--run-dir", "x", "--strategy=9")


@pytest.mark.parametrize(("nodes", "ranks"), [(1, 2), (2, 1)])
def test_ranks_of_each_node(script: str, nodes: int, ranks: int) -> None:
    given = command.build_parser().parse_args(["--nnodes", str(nodes), script])
    rehearsal = command._rehearsal(given)
    assert (rehearsal.nodes, rehearsal.ranks) == (nodes, ranks)


def test_without_a_network_the_rest_is_rehearsed(
    script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(command, "say", said.append)

    def refused(number: int) -> AbstractContextManager[Network]:
        raise NoNetworkError("there is no ip command")

    monkeypatch.setattr(command, "network_of", refused)
    rehearsal = command._rehearsal(command.build_parser().parse_args(["--nnodes", "2", script]))
    with ExitStack() as until:
        found, kinds = command._with_network(rehearsal, chosen_kinds([], nodes=2), until)
    assert found.network is None
    assert kinds == [kind for kind in chosen_kinds([], nodes=2) if not kind.needs_network]
    (line,) = said
    assert "skipped: no network of virtual hosts can be made here (there is no ip" in line


def test_a_folder_of_something_else_is_left_alone(script: str) -> None:
    Path("runs/rehearsal").mkdir(parents=True)
    Path("runs/rehearsal/thesis.tex").touch()
    with pytest.raises(UsageError, match=r"holds thesis\.tex"):
        run([script])
    assert Path("runs/rehearsal/thesis.tex").exists()


def test_a_folder_that_cannot_be_made(script: str) -> None:
    with pytest.raises(UsageError, match=r"the runs cannot be kept in train\.py/x: .*Not a dir"):
        run(["--rehearsal-dir", "train.py/x", script])


def test_an_earlier_rehearsal_is_cleared(script: str) -> None:
    for name in ("undisturbed", "fault-001-kill-rank"):
        Path("runs/rehearsal", name).mkdir(parents=True)
    Path("runs/rehearsal/rehearsal.md").touch()
    command._rehearsal(command.build_parser().parse_args([script]))
    assert not list(Path("runs/rehearsal").iterdir())


def test_the_kinds_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(kind.name in printed and kind.sentence in printed for kind in KINDS.values())


@pytest.mark.parametrize(
    ("code", "uses_run", "sentence"),
    [
        (None, True, "did not end within 120 s: pass fewer --steps than 40"),
        (None, False, "no step of a loop of Run was seen, and --steps does not shorten"),
        (3, True, "the undisturbed run ended with code 3, and must end with 0:\nlast line"),
    ],
)
def test_a_script_that_cannot_be_rehearsed(
    code: int | None,
    uses_run: bool,
    sentence: str,
    script: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    batches = {(0, 0): frozenset({"a"})} if uses_run else {}
    undisturbed = Evidence(run_dir=tmp_path / "run", batches=batches)
    monkeypatch.setattr(
        command, "run_undisturbed", lambda rehearsal: (code, 1.0, undisturbed, "last line")
    )
    with pytest.raises(UsageError) as refused:
        run([script])
    assert sentence in str(refused.value)


def test_a_script_that_resumes_from_elsewhere(
    script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = Evidence(run_dir=tmp_path / "run", resumed_elsewhere=True)
    monkeypatch.setattr(command, "run_undisturbed", lambda rehearsal: (0, 1.0, found, ""))
    with pytest.raises(UsageError) as refused:
        run([script])
    assert str(refused.value).startswith("The script resumed from a checkpoint of another run")
    assert "such as --output_dir {run_dir}/trainer." in str(refused.value)


@pytest.mark.parametrize(
    ("text", "options", "strategy"),
    [
        ("from launcher import Run\nRun.start(main)\n", (), "ddp"),
        ("from launcher.bridges import RelaunchCallback\n", (), OWN_STRATEGY),
        ("from launcher.bridges import RelaunchCallback\n", ("--strategy", "fsdp"), "fsdp"),
    ],
)
def test_a_script_that_decides_its_strategy_is_not_asked_for_one(
    text: str, options: tuple[str, ...], strategy: str, script: str
) -> None:
    Path(script).write_text(text)
    given = command.build_parser().parse_args([*options, script])
    rehearsal = command._rehearsal(given)
    assert rehearsal.strategy == strategy
    assert rehearsal.trial("x").names_strategy is (strategy != OWN_STRATEGY)


def test_without_room_for_the_runs(
    script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(b"\0" * 4_000_000)
    full = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    with pytest.raises(UsageError, match=r"has 1 MB of room, and .* need 12 MB"):
        command._require_room(tmp_path)


def test_the_page_lists_every_kind_with_its_sentence() -> None:
    text = (Path(__file__).parents[4] / "docs" / "rehearse.md").read_text()
    for kind in KINDS.values():
        codes = " or ".join(map(str, kind.codes))
        assert f"| `{kind.name}` | {kind.sentence} | {codes} |" in text


@pytest.mark.parametrize(("uses_run", "text"), [(True, MISSED), (False, MISSED_AGAIN)])
def test_a_fault_that_comes_too_late_again_has_a_likely_reason(
    uses_run: bool, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(command, "carry_out", lambda _, fault: Outcome(fault=fault, absent=MISSED))
    rehearsal = command._rehearsal(command.build_parser().parse_args([script]))
    fault = Fault(number=1, kind=KINDS["kill-rank"], at_step=3, share=0.5, rank=0)
    found = Evidence(run_dir=tmp_path)
    verdict = command._one(replace(rehearsal, uses_run=uses_run), fault, found)
    assert verdict.outcome.absent == text
    assert verdict.is_left_out


def test_a_fault_that_came_too_late_is_tried_again_with_longer_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paces: list[float] = []
    durations: list[float] = []

    def carry_out(rehearsal: Rehearsal, fault: Fault) -> Outcome:
        paces.append(rehearsal.pace_s)
        durations.append(rehearsal.duration_s)
        folder = tmp_path / f"fault-00{fault.number}-x"
        folder.mkdir()  # which must be free
        return Outcome(fault=fault, absent=MISSED if len(paces) == 1 else "another reason")

    monkeypatch.setattr(command, "carry_out", carry_out)
    rehearsal = Rehearsal(
        words=("train.py",),
        ranks=2,
        strategy="ddp",
        steps=9,
        save_every=2,
        pace_s=0.5,
        timeout_s=1.0,
        folder=tmp_path,
        duration_s=8.0,
    )
    fault = Fault(number=1, kind=KINDS["kill-rank"], at_step=3, share=0.5, rank=0)
    verdict = command._one(rehearsal, fault, Evidence(run_dir=tmp_path))
    assert verdict.is_left_out
    assert paces == [0.5, 2.0]
    assert durations == [8.0, 2.0]  # by which the moment is set for a script without Run
    assert not list(tmp_path.iterdir())
