"""Who leads when the leading node is lost, and for whom it waits: tables."""

import socket

import pytest

from launcher.rendezvous.leader_store import StoreAddress
from launcher.rendezvous.members.leader_election import (
    GATHER_S,
    LeaderElection,
    SparePort,
    may_succeed,
)


def heirs(node_rank, *there, members=(0, 1, 2, 3)):
    places = {node: StoreAddress(node=node, addr="10.0.0.1", port=4000 + node) for node in there}
    return LeaderElection(node_rank=node_rank, members=members, there=places)


@pytest.mark.parametrize(
    ("node_rank", "there", "leader"),
    [(1, (2, 3), None), (2, (1, 3), 1), (3, (2,), 2), (3, (), None), (2, (3,), None)],
)
def test_the_lowest_that_answers_leads(node_rank, there, leader):
    place = heirs(node_rank, *there).leader()
    assert (place and place.node) == leader


@pytest.mark.parametrize(
    ("there", "heard", "lost", "waited_s", "gone"),
    [
        ((2, 3), (), (), 0.0, [0]),
        ((2,), (), (), 0.0, [0, 3]),
        ((2,), (3,), (), 0.0, [0]),
        ((2, 3), (2,), (), GATHER_S, [0, 3]),
        ((2, 3), (2, 3), (2,), 0.0, [0, 2]),
    ],
)
def test_who_is_not_waited_for(there, heard, lost, waited_s, gone):
    assert heirs(1, *there).lost(heard=heard, lost=lost, waited_s=waited_s) == gone


@pytest.mark.parametrize(
    ("changed", "may"),
    [
        ({}, True),
        ({"num_members": 2}, False),
        ({"asked_to_end": True}, False),
        ({"ended_by_loss": False}, False),
    ],
)
def test_whether_the_run_may_go_on(changed, may):
    case = {"num_members": 3, "num_min": 2, "asked_to_end": False, "ended_by_loss": True}
    assert may_succeed(**{**case, **changed}) is may


def test_a_spare_port_is_held_until_it_is_given_back():
    spare = SparePort.keep("127.0.0.1", "127.0.0.1")
    with pytest.raises(OSError, match="in use"):
        socket.socket().bind((spare.addr, spare.port))
    spare.close()
    assert SparePort.keep("192.0.2.1", "127.0.0.1") is None
