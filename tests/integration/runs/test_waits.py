"""In a step the host waits for the device at most once, in a micro-batch never.

Counted on CPUs, by what would wait on a GPU; see workers/waits.py.
"""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
WORKER = str(Path(__file__).parents[1] / "workers" / "waits_worker.py")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("world_size", "strategies"), [(1, "single,fsdp"), (2, "ddp,fsdp,zero1,zero2")]
)
def test_one_wait_in_a_step(
    launch: Callable[..., Any], tmp_path: Path, world_size: int, strategies: str
) -> None:
    launched = launch("--nproc-per-node", str(world_size), WORKER, str(tmp_path), strategies)
    assert launched.wait(200) == 0, launched.stderr
    told = json.loads((tmp_path / f"told-{world_size}.json").read_text())
    assert list(told) == strategies.split(",")
    for strategy, found in told.items():
        assert found["micro-batches"] == {}, (strategy, found)
        # The norm of the gradient, without which a step that overflows could not be left out.
        assert sum(found["step"].values()) == 1, (strategy, found)
        assert sum(found["evaluation"].values()) == 1, (strategy, found)


@pytest.mark.timeout(240)
def test_a_start_with_deepspeed_starts_no_compiler(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    """It would try each of its extensions, on every rank at every start, for one that is unused."""
    launched = launch(WORKER, str(tmp_path), "zero2")
    assert launched.wait(200) == 0, launched.stderr
    programs = set(json.loads((tmp_path / "programs.json").read_text()))
    # The writer, and git for what run.json tells of the script.
    assert all(name.startswith("python") for name in programs - {"git"}), programs


KNOWN_WAITS = {
    ("probe_ranks.py", "_best_s"),  # relaunch doctor measures
    ("late_number.py", "read"),  # for one point of the device's work, a step or a norm back
    ("content_sum.py", "finish"),
    ("shard_copy.py", "__init__"),  # the weights of a save are on the host
    ("shard_copy.py", "device_wait_s"),  # of a save that is concluded
    ("shard_copy.py", "_run"),  # in a thread
}


def synchronizing(path: Path) -> set[tuple[str, str]]:
    """Return the functions of a file that wait for a device, a stream or an event by name."""
    found = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and node.attr in ("synchronize", "ipc_collect"):
                found.add((path.name, function.name))
    return found


def test_waits_by_name_are_few_and_known() -> None:
    files = [
        path
        for package in ("launcher", "strategies", "checkpointing")
        for path in (ROOT / package).rglob("*.py")
    ]
    assert len(files) > 100
    assert set().union(*map(synchronizing, files)) == KNOWN_WAITS
