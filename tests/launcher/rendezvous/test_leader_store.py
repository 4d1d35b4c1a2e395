"""Where the nodes meet: knocking there."""

import threading

import pytest

from launcher.contract.interrupted import Interrupted
from launcher.errors import StartError
from launcher.rendezvous.leader_store import StoreAddress, reach

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
