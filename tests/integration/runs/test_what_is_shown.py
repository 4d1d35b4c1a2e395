"""What run.json, report.md, the console and trackers hold: what a run is made of, no secret."""

import json

import pytest

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
from dataclasses import dataclass, field
from launcher import Run
from linear_run import prepare, train
from launcher.training.recipe.tracker_names import TENSORBOARD

@dataclass(frozen=True)
class Hub:
    url: str = "https://me:geheim-1@host/x?sig=geheim-2"
    password: str = "geheim-3"

@dataclass(frozen=True)
class Config:
    api_token: str = ""
    note: str = ""
    max_tokens: int = 4096
    hub: Hub = field(default_factory=Hub)

class Shelf:
    name = "shelf"
    def store_init_configuration(self, values):
        pathlib.Path("shelf").write_text(repr(values))
    def log(self, values, step=None): ...
    def finish(self): ...

def main(run):
    config = run.config(Config)
    assert config.api_token == "geheim-4" and config.hub.password == "geheim-3"
    for step in (job := prepare(run, steps=1, track=[TENSORBOARD, Shelf()])):
        train(job, step)
    run.folder.event("note", sentence=f"by {config.hub.password}")
    if config.note == "fails":
        raise OSError(f"cannot log in at {config.hub.url} with {config.hub.password}, geheim-4")

Run.start(main)
"""


def test_settings_are_shown_everywhere_and_their_secrets_nowhere(launch):
    pytest.importorskip("tensorboard")
    script = launch.script(SCRIPT)
    words = ("--run-dir", "run", script, "--api_token=geheim-4", "--note", "by geheim-4 and env-5!")
    launched = launch(*words, env={"A_KEY": "env-5!"})
    assert launched.wait(60) == 0, launched.stderr
    reported = launch("report", "run")
    assert reported.wait(60) == 0, reported.stderr

    found = json.loads((launch.folder / "run" / "run.json").read_text())
    assert found["arguments"] == ["--api_token=***", "--note", "by *** and ***"]
    assert found["config"] == {
        "api_token": "***",
        "note": "by *** and ***",
        "max_tokens": 4096,
        "hub": {"url": "https://***@host/x?sig=***", "password": "***"},
    }
    assert "max_tokens=4096" in launched.stdout
    assert "max_tokens: 4096" in (launch.folder / "run" / "report.md").read_text()
    assert "'config/max_tokens': 4096" in (launch.folder / "shelf").read_text()
    board = b"".join(p.read_bytes() for p in (launch.folder / "run" / "tensorboard").iterdir())
    assert b"max_tokens" in board
    files = [p for p in launch.folder.rglob("*") if p.is_file() and p.name != script]
    holders = [p.name for p in files if any(s in p.read_bytes() for s in (b"geheim", b"env-5!"))]
    assert holders == []
    assert "geheim" not in launched.stdout + launched.stderr + reported.stdout

    failing = ("--run-dir", "failed", script, "--api_token=geheim-4", "--note=fails")
    assert launch(*failing).wait(60) == 1
    told = (launch.folder / "failed" / "events.jsonl").read_text()
    assert "OSError: cannot log in at https://***@host/x?sig=*** with ***, ***" in told
    assert "geheim" not in told
