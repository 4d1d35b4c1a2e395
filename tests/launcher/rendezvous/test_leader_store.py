"""Where the nodes meet: knocking there."""

import socket
import threading

import pytest

from launcher.contract.interrupted import Interrupted
from launcher.errors import StartError, UsageError
from launcher.plan.options import NodeOptions
from launcher.rendezvous import leader_store
from launcher.rendezvous.leader_store import StoreAddress, open_when_resolved, reach

PLACE = StoreAddress(node=0, addr="10.231.7.77", port=29511)


def test_a_notice_is_not_held_up_by_a_knock(monkeypatch):
    """A firewall or a name server lets one knock take many seconds."""
    asked, answer = threading.Event(), threading.Event()
    monkeypatch.setattr(StoreAddress, "why_not", lambda place: (asked.set(), answer.wait(60))[1])

    def check():
        if asked.is_set():
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        reach(PLACE, timeout_s=600.0, say=print, check=check)
    assert not answer.is_set()
    answer.set()


def test_who_is_there_is_reached(monkeypatch):
    answers = [ConnectionRefusedError(111, "Connection refused"), None]
    monkeypatch.setattr(StoreAddress, "why_not", lambda place: answers.pop(0))
    reach(PLACE, timeout_s=600.0, say=print, check=lambda: None)
    assert answers == []


def test_who_is_not_there_in_time_is_told(monkeypatch):
    refused = ConnectionRefusedError(111, "Connection refused")
    monkeypatch.setattr(StoreAddress, "why_not", lambda place: refused)
    with pytest.raises(StartError, match=r"node 0 is not at .*: connection refused"):
        reach(PLACE, timeout_s=0.0, say=print, check=lambda: None)


def several(addr):
    return NodeOptions(num_min=2, num_max=2, node_rank=0, master_addr=addr)


def test_node_0_waits_until_its_name_is_known(monkeypatch):
    """As in a new pod, whose name the name server learns a moment later."""
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    answers = [unknown, unknown, None]
    resolve = socket.getaddrinfo

    def answer(addr, *args, **more):
        if (error := answers.pop(0)) is not None:
            raise error
        return resolve("127.0.0.1", *args, **more)

    monkeypatch.setattr("launcher.rendezvous.local.socket.getaddrinfo", answer)
    monkeypatch.setattr(leader_store, "serve", lambda addr, listener: listener.close())
    place = StoreAddress(node=0, addr="train-0.train", port=0)
    open_when_resolved(several("train-0.train"), place, say=print, check=lambda: None)
    assert answers == []


@pytest.mark.parametrize(
    ("addr", "message"),
    [("no-such-host.invalid", "cannot be resolved"), ("192.0.2.1", "is no address of this mach")],
)
def test_a_name_that_stays_unknown_is_a_mistake(monkeypatch, addr, message):
    monkeypatch.setattr(leader_store, "RESOLVE_S", 0.0)
    place = StoreAddress(node=0, addr=addr, port=29511)
    with pytest.raises(UsageError, match=message):
        open_when_resolved(several(addr), place, say=print, check=lambda: None)


def test_a_notice_ends_the_wait_for_a_name(monkeypatch):
    place, looks = StoreAddress(node=0, addr="no-such-host.invalid", port=29511), []

    def check():
        looks.append(1)
        if len(looks) == 2:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        open_when_resolved(several(place.addr), place, say=print, check=check)
