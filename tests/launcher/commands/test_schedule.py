import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.commands.schedule import run
from launcher.errors import UsageError

ROOT = Path(__file__).parents[3]
TEXT = "warmup(5).then(cosine(floor=0.1))"


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([TEXT, "--steps", "100", "--rate", "1e-2", "--rows", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == [TEXT]
    assert lines[1] == ["step", "rate", "begins"]
    assert lines[2] == ["0", "0.002", "#" * 8, "warmup(5)"]
    assert lines[3] == ["4", "0.01", "#" * 40]
    assert lines[4] == ["5", "0.01", "#" * 40, "cosine(floor=0.1)"]
    assert lines[-1] == ["99", "0.001", "#" * 4]
    assert len(lines) == 7


def test_epochs_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["warmup('2 epochs').then(linear())", "--epochs", "1", "--steps-per-epoch", "10"]
    assert run(words) == 0
    out = capsys.readouterr().out
    assert "0.90" in out
    assert "note: the schedule's warmup('2 epochs') covers the steps 0 to 20" in out


def test_json_has_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([TEXT, "--steps", "7", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schedule"] == TEXT
    assert found["rates"] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.1])


def test_the_plot_is_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert run([TEXT, "--steps", "50", "--plot", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "train.py"
    script.write_text(f"import nothing\nrun.prepare(schedule={TEXT})")
    assert run([str(script), "--steps", "50"]) == 0
    assert capsys.readouterr().out.startswith(TEXT)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([TEXT], "either --steps N, or --epochs N"),
        ([TEXT, "--steps", "5", "--epochs", "2"], "either"),
        ([TEXT, "--epochs", "5"], "needs --steps-per-epoch"),
        ([TEXT, "--steps", "0"], "--steps 0 must be at least 1"),
        ([TEXT, "--steps", "5", "--rate", "-1"], "--rate -1 must be above 0"),
        ([TEXT, "--steps", "x"], "--steps"),
        (["warmup(5", "--steps", "5"], "not Python"),
        (["warmup('2 epochs')", "--steps", "5"], "not known here"),
        (["constant().then(cosine(), at=7).then(linear(), at=3)", "--steps", "9"], "overlap"),
        (["nothing.py", "--steps", "5"], "nothing.py cannot be read: No such file"),
        ([TEXT, "--steps", "9", "--plot", "/nowhere/a.png"], "cannot be written"),
    ],
)
def test_mistakes_are_sentences(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        run(words)
    assert refusal.value.exit_code == 2


def test_the_command_imports_no_torch_and_no_numpy() -> None:
    code = (
        "import sys; from launcher.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "schedule", TEXT, "--steps", "9"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == TEXT
    assert done.stdout.splitlines()[-1] == "[]"
