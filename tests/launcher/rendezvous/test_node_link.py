import pytest

from launcher.rendezvous.node_link import DOUBT_S, LOST_S, lost_to_follower, silent

TOLD_S = 0.3
"""Between two rounds."""


@pytest.mark.parametrize(
    ("quiet_s", "gone"),
    [
        ({0: TOLD_S, 1: TOLD_S}, []),
        ({0: TOLD_S, 1: LOST_S}, [1]),
        ({0: TOLD_S, 1: LOST_S, 3: LOST_S + 1}, [1, 3]),
        ({0: LOST_S, 1: TOLD_S}, [0]),
        ({0: LOST_S, 1: LOST_S, 3: LOST_S}, [0]),
        # The cable of the leader is cut; the other was heard last a moment before it.
        ({0: LOST_S - 0.2, 1: LOST_S}, []),
        ({0: LOST_S - 2.5, 1: LOST_S + 0.5}, []),
        ({0: DOUBT_S, 1: LOST_S}, []),
        ({0: DOUBT_S - 0.1, 1: LOST_S}, [1]),
        ({0: 0.0}, []),
    ],
)
def test_who_is_lost_to_a_node_that_does_not_lead(quiet_s, gone):
    assert lost_to_follower(quiet_s, 0) == gone


def test_the_leader_hears_each_node_itself():
    assert silent({1: LOST_S, 2: TOLD_S, 3: LOST_S}) == [1, 3]
