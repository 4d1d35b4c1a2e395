"""Run folders as a run leaves them, for the tests of what reads them; and `checkpoint_kit.py`."""

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

from launcher.commands.checkpoint import run

BEGAN_S = 1_800_000_000.0


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


@pytest.fixture(name="kit", scope="session")
def _kit() -> ModuleType:
    path = Path(__file__).with_name("checkpoint_kit.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="folder")
def _folder(kit: ModuleType, tmp_path: Path) -> Path:
    """A run folder with three checkpoints, two of them of the best weights at their time."""
    for step in (10, 20, 30):
        kit.save(tmp_path / "checkpoints", step)
    for step in (10, 20):
        kit.save(tmp_path / "best", step, best_step=step)
    return tmp_path


@pytest.fixture(name="answer")
def _answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Carry out `relaunch checkpoint WORDS...`; return the exit code and what it printed."""

    def ask(*words: object) -> tuple[int, str]:
        code = run([str(word) for word in words])
        return code, capsys.readouterr().out

    return ask


@pytest.fixture(name="write_run")
def _write_run() -> Callable[..., Path]:
    return write_run


def write_run(path: Path, *, ends: bool = True, records: bool = True) -> Path:
    """A run of 400 steps, a second each: killed at 180, asked to leave at 300, then done.

    The first start took 10 s, the others 5 s, each after a wait of 100 s.
    """
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"script": "train.py", "seed": 0}))
    lines, events = [], []
    at = BEGAN_S + 10.0

    def event(kind, **details):
        events.append({"time": iso(at), "event": kind, **details})

    pieces = [(1, 0, 180, "ddp", 2), (2, 150, 300, "fsdp", 3), (3, 300, 400, "zero2", 1)]
    for attempt, first, last, strategy, ranks in pieces:
        lost = 30 if attempt == 2 else 0
        event(
            *("start",),
            attempt=attempt,
            step=first,
            strategy=strategy,
            world_size=ranks,
            precision="fp32",
            device="cpu",
            resumed=attempt > 1,
            start_s=10.0 if attempt == 1 else 5.0,
            lost_steps=lost,
            lost_s=lost * 1.0,
        )
        kept = last if attempt != 1 else 150
        for step in range(first + 1, last + 1):
            at += 1.0
            if step <= kept and step % 10 == 0:
                lines.append(_record(step, attempt, at))
            if step == 150 and attempt == 1:
                event("saved", step=150, size_bytes=10**6, seconds=0.9, stall_s=0.25)
            if step in (100, 380):
                event("best", step=step, monitor="val/loss", value=_loss(step), seconds=0.5)
        if attempt == 2:
            event("end", attempt=2, step=300, ending="preempted", reason="preemption notice")
        if attempt == 3 and ends:
            event("end", attempt=3, step=400, ending="early stop", reason="val/loss is | flat")
            event("test", **{"test/loss": 0.5, "test/accuracy": 0.9})
        at += 105.0
    if not records:
        lines = []
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    (path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    return path


def _loss(step: int) -> float:
    return 2.0 * math.exp(-step / 100) + 0.1


def _record(step: int, attempt: int, at: float) -> dict[str, float]:
    record = {
        "step": step,
        "epoch": step // 20,
        "attempt": attempt,
        "time": at,
        "lr": 1e-3 * (1 - step / 500),
        "grad_norm": 1.0 + 0.3 * math.sin(step),
        "samples_per_s": 400.0 + 50 * (attempt - 1),
        "loss": _loss(step) * 0.9,
    }
    if step % 20 == 0:
        record |= {"evaluation_s": 0.5, "val/loss": _loss(step), "val/accuracy": step / 500}
    return record
