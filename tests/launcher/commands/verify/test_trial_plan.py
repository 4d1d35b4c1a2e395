"""Which runs a verification starts, and what it refuses."""

import errno
from pathlib import Path
from typing import Any

import pytest

from launcher.commands.verify import command
from launcher.commands.verify.command import run
from launcher.commands.verify.trial_plan import (
    Asked,
    again,
    interrupted,
    numbers,
    resumed,
    trials_of,
    without_engine,
)
from launcher.errors import UsageError


def asked(folder: Path, **more: Any) -> Asked:
    given: dict[str, Any] = {"ranks": (1, 2, 3), "strategies": ("ddp", "fsdp"), **more}
    return Asked(
        words=("train.py",), are_named=False, steps=6, timeout_s=9.0, folder=folder, **given
    )


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ["single on 1 rank", "ddp on 2 ranks", "ddp on 3 ranks", "fsdp on 2 ranks"]),
        ({"ranks": (2, 4)}, ["ddp on 2 ranks", "ddp on 4 ranks", "fsdp on 4 ranks"]),
        ({"ranks": (1,)}, ["single on 1 rank", "ddp on 1 rank", "fsdp on 1 rank"]),
        (
            {"strategies": ("fsdp",)},
            ["single on 1 rank", "fsdp on 2 ranks", "fsdp on 3 ranks"],
        ),
    ],
)
def test_trials(given: dict[str, Any], names: list[str], tmp_path: Path) -> None:
    assert [one.name for one in trials_of(asked(tmp_path, **given))] == names


def test_a_script_that_decides_its_strategy_is_not_asked_for_one(tmp_path: Path) -> None:
    first, second, *_ = trials_of(asked(tmp_path, names_strategy=False))
    assert (first.name, second.name) == ("1 rank", "2 ranks")
    assert not any(one.names_strategy for one in (first, second))


@pytest.mark.parametrize(
    ("script", "options", "names"),
    [
        ("from launcher.bridges import RelaunchCallback\n", (), False),
        ("from launcher.bridges import RelaunchCallback\n", ("--strategies", "fsdp"), True),
        ("from launcher import Run\nRun.start(main)\n", (), True),
    ],
)
def test_who_is_asked_for_a_strategy(
    script: str, options: tuple[str, ...], names: bool, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(script)
    given = command._parsed([*options, str(tmp_path / "train.py")])
    assert command._asked(given, tmp_path / "work").names_strategy is names


def test_each_trial_has_its_own_folder(tmp_path: Path) -> None:
    first, *others = trials_of(asked(tmp_path))
    varied = [again(first, "again"), again(first, "hashed 1", hashed=True), interrupted(first)]
    every = [first, *others, *varied]
    assert len({one.folder for one in every}) == len(every)
    assert len({one.settings.trace for one in every}) == len(every)
    assert varied[1].variables == {"PYTHONHASHSEED": "0"}


def test_an_interrupted_run_is_resumed_in_its_folder(tmp_path: Path) -> None:
    one = interrupted(trials_of(asked(tmp_path))[1])
    assert one.settings.notice_at == 3
    two = resumed(one)
    assert (two.folder, two.settings.notice_at) == (one.folder, None)


def test_zero_needs_its_engine() -> None:
    assert without_engine(["ddp", "zero1"], has_deepspeed=False) == ["ddp"]
    assert without_engine(["ddp", "zero1"], has_deepspeed=True) == ["ddp", "zero1"]


def test_numbers() -> None:
    assert numbers("1,2,2,3") == (1, 2, 3)


@pytest.mark.parametrize("wrong", ["", "0", "a", "1,,2"])
def test_no_numbers(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"0|invalid literal"):
        numbers(wrong)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "a script is missing"),
        (("gone.py",), "gone.py is no file"),
        (("--steps", "1", "{script}"), "--steps 1 is too few"),
        (("--ranks", "a", "{script}"), "--ranks a must be numbers"),
        (("--strategies", "dpp", "{script}"), 'unknown strategy "dpp"; choose from single'),
        (("--timeout", "0", "{script}"), "--timeout 0 must be above 0"),
        (("--tolerance", "-1", "{script}"), "--tolerance -1.0 must be 0 or more"),
        (("--stepz", "3", "{script}"), "unrecognized arguments: --stepz"),
        (("--", "--strategy=ddp", "{script}"), "--strategy=ddp is chosen by relaunch verify"),
    ],
)
def test_bad_input(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    with pytest.raises(UsageError, match=sentence):
        run([word.format(script=script) for word in words])


def test_no_room_for_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_trial(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(command, "run_trial", run_trial)
    script = tmp_path / "train.py"
    script.write_text("")
    with pytest.raises(UsageError, match=r"No space left.* Pass --work-dir DIR with more room"):
        run([str(script)])
