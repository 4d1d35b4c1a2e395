"""Streams that keep their position themselves: every rank's is saved, and found again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(200)

SCRIPT = str(Path(__file__).parents[1] / "workers" / "own_position_run.py")


def seen_in(folder: Path) -> dict[tuple[int, int, int], Any]:
    """What each rank was given in each step, the last time; by rank, step and turn."""
    found = {}
    for file in folder.glob("seen-*.jsonl"):
        for line in file.read_text().splitlines():
            step, turn, batch = json.loads(line)
            found[int(file.stem[5:]), step, turn] = batch
    return found


def start(launch: Callable[..., Any], ranks: int, strategy: str, *options: str) -> Any:
    run = ("--nproc-per-node", str(ranks), "--strategy", strategy)
    launched = launch(*run, "--run-dir", str(launch.folder / "r"), SCRIPT, *options)
    launched.wait(100)
    return launched


@pytest.mark.parametrize(("ranks", "strategies"), [(1, ("single", "zero2")), (2, ("ddp", "fsdp"))])
def test_a_resume_goes_on_at_the_next_sample(
    ranks: int, strategies: tuple[str, str], launch: Any, tmp_path: Path
) -> None:
    first = start(launch, ranks, strategies[0], "--leave-at", "3")
    assert first.wait() == 75, first.stderr
    assert "is not promised: the same samples on another number of ranks" in first.stderr
    second = start(launch, ranks, strategies[1])
    assert second.wait() == 0, second.stderr
    assert "position in the data, as Numbers has saved it on each rank" in second.stdout
    assert "not promised: the same samples on another number of ranks: each of" in second.stdout
    seen = seen_in(tmp_path)
    assert len(seen) == 6 * 4
    for rank in range(ranks):
        read = [row for key in sorted(seen) if key[0] == rank for row in seen[key]]
        numbers = [int(number) for number, _ in read]
        per_pass = [n * ranks + rank for n in range(10)]
        whole = [1000 * epoch + number for epoch in range(5) for number in per_pass]
        assert numbers == whole[: len(numbers)]
    drawn = [drawn for batch in seen.values() for _, drawn in batch]
    assert len(set(drawn)) == len(drawn) == 48


def test_another_number_of_ranks_is_refused(launch: Any) -> None:
    assert start(launch, 2, "ddp", "--leave-at", "3").wait() == 75
    other = start(launch, 1, "single")
    assert other.wait() == 2
    assert "each rank reads its own Numbers, and the run was saved on 2 ranks" in other.stderr
    assert "Start it with 2 ranks" in other.stderr
    seekable = start(launch, 2, "ddp", "--kind", "seekable")
    assert seekable.wait() == 2
    assert "made with a stream that keeps its position itself" in seekable.stderr
    assert start(launch, 2, "ddp").wait() == 0


@pytest.mark.parametrize(
    ("ranks", "options", "words"),
    [
        (2, ("--whole",), "the ranks 0 and 1 read the same samples from Numbers"),
        (2, ("--micro-batch", "8"), "global_batch=8 must be a multiple of micro_batch=8 times 2"),
        (1, ("--workers", "1"), "and workers=1 would read it elsewhere. Use workers=0, or pass"),
        (1, ("--kind", "needs more"), "state_dict() needs the number of samples read"),
        (1, ("--kind", "unsaved"), "Unsaved.state_dict()['lock'] is a object, which a checkpoint"),
    ],
)
def test_what_cannot_be_read_so(
    ranks: int, options: tuple[str, ...], words: str, launch: Any
) -> None:
    refused = start(launch, ranks, "ddp" if ranks > 1 else "single", *options)
    assert refused.wait() == 2, refused.stderr
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
