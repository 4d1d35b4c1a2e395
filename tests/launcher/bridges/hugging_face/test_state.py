"""What of a callback is restored: where it was, not what the script asks of it."""

from types import SimpleNamespace
from typing import Any

from launcher.bridges.hugging_face.state import restore_callbacks


class Stopping(SimpleNamespace):
    patience: int
    so_far: int


def entry(patience: int, so_far: int) -> dict[str, Any]:
    return {"args": {"patience": patience}, "attributes": {"so_far": so_far}}


def test_the_counter_is_restored_and_the_patience_is_the_scripts() -> None:
    now = Stopping(patience=5, so_far=0)
    restore_callbacks([object(), now], {"Stopping": entry(2, 1), "Gone": entry(1, 1)})
    assert (now.patience, now.so_far) == (5, 1)


def test_several_of_a_class_are_restored_in_their_order() -> None:
    now = [Stopping(patience=1, so_far=0), Stopping(patience=2, so_far=0)]
    restore_callbacks(now, {"Stopping": [entry(1, 3), entry(2, 4), entry(9, 9)]})
    assert [one.so_far for one in now] == [3, 4]
