import pytest

from strategies import ConfigError, Unfreezing

NAMES = ("backbone.0.weight", "backbone.1.weight", "head.weight")


def test_what_is_held_at_each_step() -> None:
    unfreezing = Unfreezing({"backbone.*": 5, "backbone.0.*": 8}, NAMES)
    assert unfreezing.held_at(0) == unfreezing.held_at(4) == set(NAMES[:2])
    assert unfreezing.held_at(5) == unfreezing.held_at(7) == {NAMES[0]}
    assert unfreezing.held_at(8) == frozenset()
    assert [unfreezing.since(name) for name in NAMES] == [8, 5, 0]


def test_what_the_model_froze_itself_is_named() -> None:
    frozen = ("stem.weight", "stem.bias")
    with pytest.raises(ConfigError, match=r"fits 2 .*frozen by requires_grad_\(False\)"):
        Unfreezing({"stem.*": 5}, NAMES, frozen)
    (note,) = Unfreezing({"backbone.*": 3}, NAMES, (*frozen, "backbone.table")).notes
    assert "backbone.table" in note
    assert Unfreezing({"backbone.*": 5}, NAMES, frozen).notes == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"bakbone.*": 5}, r'"bakbone\.\*": 5.*fits 0 of 3'),
        ({"head.*": 0}, "a step >= 1"),
        ({"*": 7}, "nothing to train before step 7"),
    ],
)
def test_patterns_that_cannot_be(asked: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Unfreezing(asked, NAMES)
