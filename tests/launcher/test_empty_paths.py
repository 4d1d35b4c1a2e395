"""A path that is empty, as "$RUN" is where RUN is not set, never means the working folder."""

from importlib import import_module
from pathlib import Path

import pytest

from launcher.command_line.parser import parse_command_line
from launcher.command_line.subcommands import SUBCOMMANDS
from launcher.errors import UsageError
from launcher.plan.launch_plan import prepare_run_folder


@pytest.mark.parametrize("option", ["--run-dir", "--checkpoints", "--log-dir", "--secret-file"])
def test_of_a_run(option: str) -> None:
    for words in ([option, ""], [f"{option}="], [option, " "]):
        with pytest.raises(UsageError, match=rf"{option}.* is empty\. Is a variable not set\?"):
            parse_command_line([*words, "train.py"], {})


@pytest.mark.parametrize(
    "words",
    [
        ["watch", ""],
        ["report", ""],
        ["report", "a", ""],
        ["compare", "a", ""],
        ["checkpoint", "list", ""],
        ["checkpoint", "show", ""],
        ["checkpoint", "verify", ""],
        ["checkpoint", "diff", "a", ""],
        ["checkpoint", "pin", "", "3"],
        ["checkpoint", "prune", "", "--keep", "1", "--yes"],
        ["checkpoint", "export", "a", ""],
        ["checkpoint", "export", "", "a"],
        ["checkpoint", "import", "", "a"],
        ["checkpoint", "import", "a", ""],
        ["doctor", "--run-dir", ""],
        ["sweep", "--sweep-dir", "", "--monitor", "val/loss", "--seeds", "2", "--", "train.py"],
        ["rehearse", "--rehearsal-dir", "", "train.py"],
        ["verify", "--work-dir", "", "train.py"],
        ["schedule", "constant", "--plot", ""],
    ],
)
def test_of_a_command(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"is empty\. Is a variable not set\?"):
        import_module(SUBCOMMANDS[words[0]], "launcher").run(words[1:])
    assert list(tmp_path.iterdir()) == []


def test_a_file_and_a_link_in_the_way_of_a_run_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("gone")
    for name, why in (("file", "file is a file"), ("link", "link is a link to gone, which does")):
        for asked in (tmp_path / name, tmp_path / name / "below"):
            with pytest.raises(UsageError, match=rf"cannot be written \({tmp_path}/{why}"):
                prepare_run_folder(asked)
