"""Which kinds of parameters are stepped whole, by what the trial has shown of each."""

import pytest

from strategies.parallel.trial.whole_kinds import Kind, kinds_to_keep_whole

KINDS: list[Kind] = [(0, 4), (0, 2), (0, 1), (1, 2), (1, 1)]


@pytest.mark.parametrize(
    ("shown", "whole"),
    [
        (set(), set()),
        ({(0, 2)}, {(0, 4), (0, 2)}),  # the other with several dimensions goes along
        ({(0, 4)}, {(0, 4), (0, 2)}),
        ({(1, 2)}, {(1, 2)}),
        ({(0, 1)}, {(0, 1)}),
        ({(0, 4), (1, 1)}, {(0, 4), (0, 2), (1, 1)}),
    ],
)
def test_shapes_that_are_looked_at(shown: set[Kind], whole: set[Kind]) -> None:
    def problem_of(kinds: frozenset[Kind]) -> str | None:
        return None if shown <= kinds else "another"

    assert kinds_to_keep_whole(KINDS, problem_of) == (frozenset(whole), None)


def test_what_is_wrong_even_so() -> None:
    assert kinds_to_keep_whole(KINDS, lambda _: "another") == (frozenset(KINDS), "another")
