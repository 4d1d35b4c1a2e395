"""The commands and snippets of README.md and docs/ are carried out, on small runs.

Put in for what a reader puts in: RUN and the like, and fewer ranks, trials and folds where the page
names many. Launching several nodes and Slurm have their own tests (tests/integration/nodes, slurm).
"""

import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.commands import plan
from launcher.commands.rehearse import command as rehearse
from launcher.commands.verify import command as verify
from tests import doc_pages

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[3]


PARSERS = {
    "plan": plan.build_parser,
    "rehearse": rehearse.build_parser,
    "verify": verify.build_parser,
}
TEXTS = {name: page.read_text() for name, page in doc_pages.BY_NAME.items()}


def command_of(page: str, start: str) -> list[str]:
    """The words of a page's command that begins so, without "relaunch"."""
    (line,) = {line for line in doc_pages.commands(TEXTS[page]) if line.startswith(start)}
    words = shlex.split(line)
    return words[words.index("relaunch") + 1 :]


def with_ranks(words: list[str], count: int) -> list[str]:
    """The same command for fewer ranks than the page has GPUs."""
    at = words.index("--nproc-per-node") + 1
    return [*words[:at], str(count), *words[at + 1 :]]


@pytest.mark.parametrize(
    ("page", "start"),
    [
        ("README.md", "relaunch --nproc-per-node 8 --strategy fsdp --precision bf16"),
        ("README.md", "relaunch --nproc-per-node 4 --strategy zero3"),
        ("coming_from.md", "relaunch --nproc-per-node 4 train.py"),
    ],
)
def test_the_loops(page: str, start: str, launch: Callable[..., Any]) -> None:
    (block,) = doc_pages.blocks(TEXTS[page], "python")
    head, rest = block.split("\ndef ", 1)
    definitions = f"{head}\n{doc_pages.DATA}\ndef {rest}".replace("epochs=60", "epochs=2")
    script = launch.script(definitions)  # type: ignore[attr-defined]
    words = [
        word if word != "train.py" else script for word in with_ranks(command_of(page, start), 2)
    ]
    launched = launch("--run-dir", "run", *words)
    assert launched.wait(200) == 0, launched.stderr
    folder = launch.folder / "run"  # type: ignore[attr-defined]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] in ("end", "attempt", "test")
    assert any(event["event"] == "end" for event in events)
    assert (folder / "export" / "model.safetensors").exists() == (page == "README.md")


def test_the_settings(launch: Callable[..., Any]) -> None:
    (block,) = [
        b for b in doc_pages.blocks(TEXTS["run_folder.md"], "python") if "class Config" in b
    ]
    (launch.folder / "train.py").write_text(block)  # type: ignore[attr-defined]
    (launch.folder / "train.toml").write_text("lr = 0.5\n[model]\nwidth = 7\n")  # type: ignore[attr-defined]
    launched = launch(*command_of("run_folder.md", "relaunch train.py --config"))
    assert launched.wait(100) == 0, launched.stderr
    assert "0.0003 128" in launched.stdout.splitlines()
    told = json.loads((launch.folder / "runs" / "train" / "run.json").read_text())  # type: ignore[attr-defined]
    assert told["config"] == {"lr": 3e-4, "model": {"width": 128}}


def test_what_is_tried_before_the_first_step(launch: Callable[..., Any]) -> None:
    (block,) = [b for b in doc_pages.blocks(TEXTS["run_folder.md"], "python") if "validate=" in b]
    data = f"{doc_pages.DATA}\ntrain_data = val_data = test_data = my_dataset()\n"
    script = launch.script(data + block)  # type: ignore[attr-defined]
    launched = launch("--nproc-per-node", "2", script)
    assert launched.wait(100) == 0, launched.stderr
    assert "val/accuracy" in launched.stdout
    assert "test/accuracy" in launched.stdout
    broken = (data + block).replace("measure=measure", "measure=lambda model, batch: 1")
    launched = launch("--run-dir", "other", launch.script(broken))  # type: ignore[attr-defined]
    assert launched.wait(100) == 2, launched.stderr
    assert "measure returned a int; it must return a dict" in launched.stderr


SWEPT = """
from dataclasses import dataclass
from launcher import Run

@dataclass(frozen=True)
class Config:
    lr: float = 1e-2
    width: int = 8
    seed: int = 0
    fold: int = 0
    folds: int = 3

config = None
{FOLDS}
def train(run):
    global config
    config = run.config(Config)
    train, held_out = main(run)
    job = run.prepare(
        model=lambda: Net(config.width),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=config.lr),
        train=train, global_batch=16, micro_batch=8, epochs=1, track=[],
    )
    for step in job:
        for x, y in step:
            step.backward(F.cross_entropy(job.model(x), y, reduction="sum"), count=len(y))
        if step.evaluation_due:
            step.evaluate(held_out, measure)

Run.start(train)
"""
SWEEPS = {
    "random": ("--sweep-dir runs/lr", ("--trials", "2"), 2),
    "grid": ("--sweep-dir runs/grid", (), 4),
    "optuna": ("--sweep-dir runs/optuna", ("--trials", "2"), 2),
    "folds": ("--sweep-dir runs/folds", ("--folds", "2"), 2),
    "seeds": ("--sweep-dir runs/seeds", ("--seeds", "2"), 2),
}


# The others take a minute; what they do is shown by test_sweep_runs.py.
@pytest.mark.parametrize(
    "name", [n if n == "grid" else pytest.param(n, marks=pytest.mark.slow) for n in SWEEPS]
)
def test_the_sweeps(name: str, launch: Callable[..., Any]) -> None:
    start, fewer, num_trials = SWEEPS[name]
    if name == "optuna":
        pytest.importorskip("optuna")
    (folds,) = [b for b in doc_pages.blocks(TEXTS["run_folder.md"], "python") if "run.folds" in b]
    returns = folds.rstrip() + "\n    return train, held_out\n"
    launch.script(doc_pages.DATA + SWEPT.replace("{FOLDS}", returns))  # type: ignore[attr-defined]
    words = command_of("run_folder.md", f"relaunch sweep {start}")
    at = words.index("--")
    launched = launch(*words[:at], *fewer, *words[at:])
    assert launched.wait(280) == 0, launched.stderr
    folder = launch.folder / "runs" / start.rpartition("/")[2]  # type: ignore[attr-defined]
    assert len(list(folder.glob("trial-*"))) == num_trials
    rows = (folder / "results.txt").read_text().splitlines()[1 : num_trials + 1]
    assert [row.split()[-1] for row in rows] == ["finished"] * num_trials


def relaunch(words: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    start = "from launcher.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", start, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=100,
        capture_output=True,
        text=True,
    )


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


PUT_IN = {
    "RUN": "runs/train",
    "A": "runs/a",
    "B": "runs/b",
    "OTHER": "out",
    "OUT": "out",
    "STEP": "10",
    "/data/zero3": "out",
}
LOOKING = [
    *((name, "relaunch checkpoint") for name in ("README.md", "checkpoints.md")),
    *((name, "relaunch watch") for name in ("README.md", "run_folder.md")),
    *((name, "relaunch report") for name in ("README.md", "run_folder.md")),
]


def test_what_looks_at_a_run(
    launch: Callable[..., Any], small: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("looked-at")
    options = ("--epochs", "5", "--save-every", "5 steps", "--patience", "99")
    launched = launch("--run-dir", str(folder / "runs" / "small"), small, *options)
    assert launched.wait(150) == 0, launched.stderr
    for name in ("train", "a", "b", "c"):
        shutil.copytree(folder / "runs" / "small", folder / "runs" / name)
    (folder / "evil").mkdir()
    (folder / "evil" / ".metadata").write_bytes(pickle.dumps(Evil()))
    (folder / "config.json").write_text("{}")
    lines = [
        line for page, start in LOOKING for line in doc_pages.commands(TEXTS[page]) if start in line
    ]
    # What is exported is imported, so that comes first.
    lines.sort(key=lambda line: " import " in line)
    assert len(lines) >= 18
    imported = 0
    for line in lines:
        words = [PUT_IN.get(word, word) for word in shlex.split(line)[1:]]
        if words[:2] == ["checkpoint", "import"]:
            imported += 1
            words[-1] = f"runs/imported-{imported}"
        if words[:2] == ["checkpoint", "export"]:
            shutil.rmtree(folder / "out", ignore_errors=True)  # each page exports into its own
        done = relaunch(words, folder)
        assert done.returncode == (1 if "evil" in words else 0), (line, done.stderr)
        assert "Traceback" not in done.stderr, line
        assert done.stdout or done.stderr, line
    assert not (folder / "executed").exists()
    assert (folder / "runs" / "train" / "report.md").exists()


def test_what_is_printed_and_not_started(tmp_path: Path) -> None:
    """Every other command that starts a script: its plan, with the page's own words."""
    (tmp_path / "train.py").write_text("")
    shown = 0
    for name, text in TEXTS.items():
        if name == "slurm.md":
            continue
        for line in doc_pages.commands(text):
            # A place that needs no package of its own.
            words = shlex.split(line.replace("s3://", f"file://{tmp_path}/"))
            words = words[words.index("relaunch") + 1 :]
            if words[0] in PARSERS:  # what it prints: tests/launcher/commands
                given = vars(PARSERS[words[0]]().parse_args(words[1:]))
                assert ".py" in str(given) or "--list" in words, line
            elif "train.py" in words and words[0] not in ("sweep", "schedule", "slurm"):
                done = relaunch(["--dry-run", *words], tmp_path)
                assert done.returncode == 0, (line, done.stderr)
                assert "train.py" in done.stdout, line
                shown += 1
    assert shown >= 10


def test_a_sweeps_help(tmp_path: Path) -> None:
    done = relaunch(command_of("README.md", "relaunch sweep"), tmp_path)
    assert done.returncode == 0
    assert "NAME=LOW:HIGH:log" in done.stdout
