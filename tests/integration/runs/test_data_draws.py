"""What a data set and a collate function draw: the same on any number of ranks and workers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(200)

SCRIPT = str(Path(__file__).parents[1] / "workers" / "drawing_run.py")

Seen = dict[tuple[Any, ...], tuple[float, ...]]


def seen_in(folder: Path) -> Seen:
    """What all ranks of all starts were given; what came twice was the same each time."""
    found: Seen = {}
    for file in folder.rglob("seen-*.jsonl"):
        for line in file.read_text().splitlines():
            key, value = json.loads(line)
            assert found.setdefault(tuple(key), tuple(value)) == tuple(value), key
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, python: Callable[..., Any]) -> Seen:
    """What one rank is given that reads by itself."""
    folder = tmp_path_factory.mktemp("alone")
    done = python(SCRIPT, cwd=folder)
    assert done.returncode == 0, done.stderr
    return seen_in(folder)


def test_no_numbers_are_drawn_twice(alone: Seen) -> None:
    kinds = ("model", "train", "train, collate")
    drawn = {key: value for key, value in alone.items() if key[0] in kinds}
    assert len(drawn) == 2 * 48 + 2 * 8 * 4
    # numpy's and those of `random`; of torch's 2**24 two may well be equal
    assert len({number for value in drawn.values() for number in value[1:]}) == 2 * len(drawn)
    assert len({value[0] for value in drawn.values()}) >= len(drawn) - 1


def test_an_evaluation_draws_the_same_each_time(alone: Seen) -> None:
    for what in ("val", "val, collate", "measure"):
        each = [
            {key[2]: value for key, value in alone.items() if key[:2] == (what, step)}
            for step in (1, 3, 5, 7)
        ]
        assert each[0]
        assert each == each[:1] * 4


WAYS = {
    "2 ranks": (2, "ddp", []),
    "3 ranks": (3, "zero2", []),
    "fork": (1, "single", ["--workers", "2", "--start", "fork"]),
    "spawn": (2, "fsdp", ["--workers", "1", "--start", "spawn", "--persistent"]),
    "forkserver": (1, "zero3", ["--workers", "2", "--start", "forkserver", "--persistent"]),
    "persistent": (2, "zero1", ["--workers", "2", "--persistent"]),
}


@pytest.mark.quick_cases("2 ranks", "fork", "spawn")
@pytest.mark.parametrize("way", WAYS)
def test_the_same_numbers_whoever_reads(
    way: str, launch: Callable[..., Any], tmp_path: Path, alone: Seen
) -> None:
    ranks, strategy, options = WAYS[way]
    run = ("--nproc-per-node", str(ranks), "--strategy", strategy, "--run-dir", str(tmp_path / "r"))
    done = launch(*run, SCRIPT, *options)
    assert done.wait(150) == 0, done.stderr
    assert seen_in(tmp_path) == alone
    expected = ranks * int(options[1]) if options else 0
    assert len(list(tmp_path.rglob("init-*"))) == expected


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_same_numbers_after_a_resume(
    workers: str, launch: Callable[..., Any], tmp_path: Path, alone: Seen
) -> None:
    run = ("--run-dir", str(tmp_path / "r"), "--nproc-per-node")
    first = launch(*run, "1", SCRIPT, "--workers", workers, "--leave-at", "3")
    assert first.wait(100) == 75, first.stderr
    second = launch(*run, "2", "--strategy", "ddp", SCRIPT, "--workers", workers)
    assert second.wait(100) == 0, second.stderr
    assert seen_in(tmp_path) == alone
