"""The two training scripts on their real data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.mark.timeout(150)
def test_digits_are_read(launch: Callable[..., Any], run: Any) -> None:
    script = str(SCRIPTS / "train_digits.py")
    launched = launch("--run-dir", str(run.path), script, env=ONE_THREAD)
    assert launched.wait(140) == 0, launched.stderr
    assert run.events("end")[0]["ending"] == "early stop"
    assert run.events("test")[0]["test/accuracy"] >= 0.97
    rates = [r["lr"] for r in run.records("metrics.jsonl")]
    assert rates[0] < max(rates) == pytest.approx(2e-3, rel=0.01)
    assert rates[-1] < max(rates)


@pytest.mark.timeout(150)
def test_bits_per_byte_fall(launch: Callable[..., Any], run: Any) -> None:
    script = str(SCRIPTS / "train_bytes.py")
    to = ("--nproc-per-node", "2", "--strategy", "fsdp", "--precision", "bf16")
    size = ("--steps", "40", "--context", "64", "--width", "48", "--evaluate-every", "10")
    launched = launch(*to, "--run-dir", str(run.path), script, *size)
    assert launched.wait(140) == 0, launched.stderr
    name = "val/bits_per_byte"
    bits = [r[name] for r in run.records("metrics.jsonl") if name in r]
    assert len(bits) == 4
    assert 2.0 < bits[-1] < bits[0] < 8.0
