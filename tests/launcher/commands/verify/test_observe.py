"""What is seen of two trials: the place where they part first, and what parts there."""

from pathlib import Path
from typing import Any

from launcher.commands.trials.compare import Comparison
from launcher.commands.trials.outcome import MicroBatch, Outcome, RankNotes
from launcher.commands.verify.observe import place_of, seen_in, seen_twice, with_repeat, writers

EQUAL = Comparison(loss=0.0, parameters=0.0, num_steps=2)


def batch(loss: float, *, rank: int = 0, held: str = "a", count: float = 4.0) -> MicroBatch:
    return MicroBatch(rank=rank, batch=held, loss=loss, count=count)


def outcome(losses: dict[tuple[int, int], MicroBatch], **more: Any) -> Outcome:
    records = {1: {"samples": 8, "lr": 0.1, "grad_norm": 2.0, "loss": 1.0}}
    given = {"ranks": 1, "strategy": "single", "records": records, **more}
    return Outcome(name="x", code=0, folder=Path(), micro_batches=losses, **given)


def test_rounding_is_no_place() -> None:
    left = outcome({(0, 0): batch(100.0), (0, 1): batch(2.0)})
    right = outcome({(0, 0): batch(100.00001), (0, 1): batch(2.0, rank=1)}, ranks=2)
    assert place_of(left, right, EQUAL) is None


def test_a_later_micro_batch_that_differs() -> None:
    left = outcome({(0, 0): batch(1.0), (0, 1): batch(2.0)})
    right = outcome({(0, 0): batch(1.0), (0, 1): batch(2.5, rank=1)}, ranks=2)
    seen = seen_in(left, right, EQUAL)
    assert seen.loss_differs
    assert not seen.first_loss_differs
    assert not seen.data_differs


def test_the_first_step_that_differs_counts() -> None:
    left = outcome({(0, 0): batch(1.0), (1, 0): batch(1.0), (2, 0): batch(1.0)})
    right = outcome({(0, 0): batch(1.0), (1, 0): batch(2.0), (2, 0): batch(1.0, held="b")})
    place = place_of(left, right, EQUAL)
    assert place is not None
    assert (place.step, place.data, place.first_loss) == (1, False, True)


def test_an_update_that_differs_comes_before_the_next_loss() -> None:
    left = outcome({(0, 0): batch(1.0), (1, 0): batch(1.0)})
    records = {1: {"samples": 8, "lr": 0.1, "grad_norm": 1.0}}
    right = outcome({(0, 0): batch(1.0), (1, 0): batch(3.0)}, records=records, ranks=2)
    found = Comparison(
        loss=2.0, parameters=1.0, num_steps=2, step=1, tensor="fp32/w", distances={"fp32/w": 1.0}
    )
    seen = seen_in(left, right, found)
    assert (seen.loss_differs, seen.weights_differ_after) == (False, True)
    assert seen.gradient_factor == 0.5


def test_what_ranks_note_before_the_first_step() -> None:
    same = {0: RankNotes(num_samples=9, first="f", again="f", weights="w")}
    left = outcome({}, notes=same)
    apart = {
        0: RankNotes(num_samples=9, first="f", again="g", weights="w", wrote=("/a", "/b")),
        1: RankNotes(num_samples=8, first="f", again="f", weights=None, wrote=("/a",)),
    }
    right = outcome({}, notes=apart)
    seen = seen_in(left, right, EQUAL)
    assert seen.reads_differ
    assert seen.probe_differs_by_rank
    assert not seen.weights_differ
    assert seen.num_writers == 2
    assert writers(right) == {"/a": 2}


def test_a_run_that_is_not_the_same_twice() -> None:
    first = outcome({(0, 0): batch(1.0)})
    again = outcome({(0, 0): batch(1.0, held="b")})
    seen = with_repeat(seen_in(first, first, EQUAL), seen_twice(first, again, EQUAL))
    assert seen.repeat_differs
    assert seen.repeat_data_differs
    assert not seen_twice(first, first, EQUAL).repeat_differs
