import math
from typing import Any

import pytest

from launcher.rendezvous.mailbox import Mailbox
from launcher.rendezvous.messages import Lead, NodeMessage
from launcher.rendezvous.node_link import DOUBT_S, LOST_S, NodeLink, lost_to_follower, silent

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


class CountingStore(dict[str, bytes]):
    """As torch's TCPStore, in one process; counts the requests."""

    requests = 0

    def set(self, key: str, value: str) -> None:
        self.requests += 1
        self[key] = value.encode()

    def check(self, keys: list[str]) -> bool:
        self.requests += 1
        return all(key in self for key in keys)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        self.requests += 1
        return [self[key] for key in keys]

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        self.requests += 1
        if self.setdefault(key, b"") == expected.encode():
            self[key] = desired.encode()
        return self[key]


@pytest.mark.parametrize("num_nodes", [2, 16, 64, 200])
def test_a_node_that_follows_makes_two_requests_a_tick(num_nodes: int) -> None:
    store: Any = CountingStore()
    nodes: list[tuple[NodeLink, Mailbox]] = []
    for node in range(num_nodes):
        message = NodeMessage(node_rank=node, host=f"h{node}", nnodes="x", local_world_size=1)
        link = NodeLink(
            lambda: store, message, num_nodes=num_nodes, by_arrival=False, secret=b"s", run_id=""
        )
        session = "session" if node == 0 else None
        nodes.append((link, Mailbox(store, b"s", "", session)))
    leader, box = nodes[0]
    leader._leads = True
    leader.publish_lead(Lead(attempt=-1, members=tuple(range(num_nodes)), port=0))
    for link, one in nodes:
        one.meet()
        link._exchange(one)
    leader._exchange(box)  # has read all, and has put them together
    for link, one in nodes[1:]:
        link._exchange(one)
        store.requests = 0
        link._exchange(one)
        assert store.requests == 2
        assert sorted(link.others) == [n for n in range(num_nodes) if n != link.message.node_rank]
    store.requests = 0
    leader._exchange(box)
    assert store.requests == 2 + math.ceil(num_nodes / 64)
    assert sorted(leader.others) == list(range(1, num_nodes))
