"""Never two parts of a run that both go on."""

from itertools import combinations, product

import pytest

from launcher.rendezvous.members.quorum import has_quorum


@pytest.mark.parametrize(
    ("staying", "members", "dead", "goes_on"),
    [
        ({0, 1}, {0, 1, 2}, (), True),
        ({1, 2}, {0, 1, 2}, (), True),
        ({0}, {0, 1, 2}, (), False),
        ({0}, {0, 1}, (), True),
        ({1}, {0, 1}, (), False),
        ({1}, {0, 1}, {0}, True),
        ({2}, {0, 1, 2}, {0}, False),
        ({1}, {0, 1, 2}, {0}, True),
        ({1, 3}, {0, 1, 2, 3}, (), False),
        ({0, 3}, {0, 1, 2, 3}, (), True),
        ((), {0}, {0}, False),
    ],
)
def test_has_quorum(staying, members, dead, goes_on):
    assert has_quorum(staying, members, dead) is goes_on


@pytest.mark.parametrize("size", range(1, 7))
def test_of_two_parts_at_most_one_goes_on(size):
    members = set(range(size))
    for taken in range(size + 1):
        for part in combinations(sorted(members), taken):
            rest = members - set(part)
            # Each part may or may not have learnt that node 0, which is then in neither, has ended.
            for mine, theirs in product(((), {0}), repeat=2):
                gone = {*mine, *theirs}
                if has_quorum(set(part) - gone, members, mine):
                    assert not has_quorum(rest - gone, members, theirs), (part, rest, mine, theirs)
