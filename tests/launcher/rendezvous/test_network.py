"""Which address of this machine the other nodes see; `--local-addr` decides."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.rendezvous import network
from launcher.rendezvous.members.leader_election import SparePort
from launcher.rendezvous.network import interface_of_run, interface_with, own_address


def plan(master_addr, local_addr):
    return SimpleNamespace(master_addr=master_addr, nodes=SimpleNamespace(local_addr=local_addr))


def test_local_addr_decides_which_interface_the_ranks_use(monkeypatch):
    monkeypatch.setattr(network, "own_address", lambda peer: "127.0.0.9" if peer == "node0" else "")
    asked = []
    monkeypatch.setattr(network, "interface_with", lambda address: asked.append(address) or "ib0")
    assert interface_of_run(plan("node0", "10.0.0.7")) == "ib0"
    assert interface_of_run(plan("node0", None)) == "ib0"
    assert asked == ["10.0.0.7", "127.0.0.9"]


def test_the_interface_of_an_address():
    assert interface_with("127.0.0.1") == "lo"
    assert own_address("127.0.0.1") == "127.0.0.1"
    unknown = "192.0.2.1"  # kept for documentation: nobody's
    assert interface_with(unknown) is None


def test_the_other_nodes_are_given_local_addr_for_the_case_that_this_one_leads():
    spare = SparePort.keep("127.0.0.2", "127.0.0.1")
    assert spare is not None
    assert (spare.addr, spare.listener.getsockname()) == ("127.0.0.2", ("127.0.0.2", spare.port))
    spare.close()
    usual = SparePort.keep(None, "127.0.0.1")
    assert usual is not None
    assert usual.addr == "127.0.0.1"
    usual.close()
    assert SparePort.keep("192.0.2.1", "127.0.0.1") is None


@pytest.mark.skipif(not Path("/proc/net/route").exists(), reason="needs Linux")
def test_every_interface_with_an_address_is_found():
    address = own_address("192.0.2.1")
    if address is None:
        pytest.skip("this machine has no route to elsewhere")
    assert interface_with(address) is not None
