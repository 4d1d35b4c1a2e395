"""Which faults come is a function of the seed."""

from launcher.commands.rehearse.draw import draw
from launcher.commands.rehearse.kinds import KINDS

ALL = list(KINDS.values())


def test_the_same_seed_draws_the_same_faults() -> None:
    first = draw(3, 60, ALL, steps=40, ranks=2)
    assert first == draw(3, 60, ALL[::-1], steps=40, ranks=2)
    assert first != draw(4, 60, ALL, steps=40, ranks=2)
    assert first[:9] == draw(3, 9, ALL, steps=40, ranks=2)


def test_every_kind_comes_before_one_comes_again() -> None:
    found = draw(0, len(ALL), ALL, steps=40, ranks=2)
    assert {fault.kind.name for fault in found} == set(KINDS)


def test_faults_fit_the_run() -> None:
    for fault in draw(1, 300, ALL, steps=40, ranks=3):
        assert 1 <= fault.at_step <= 30
        assert 0.2 <= fault.share <= 0.8
        assert fault.rank in range(3)


def test_there_are_at_least_25_kinds_and_each_says_what_happens() -> None:
    assert len(KINDS) >= 25
    assert len({kind.sentence for kind in ALL}) == len(ALL)
    assert all(kind.codes for kind in ALL)
