"""One command on each node, and the code of all."""

from pathlib import Path

import pytest

from launcher.commands.rehearse.network import Network
from launcher.commands.rehearse.nodes import code_of, on_nodes
from launcher.commands.trials.run_trial import Trial, command_of
from launcher.contract.trial import TrialSettings

TRIAL = Trial(
    name="t",
    words=("train.py",),
    ranks=1,
    strategy="ddp",
    folder=Path("folder"),
    settings=TrialSettings(steps=4),
)


def test_one_node_is_told_nothing() -> None:
    assert on_nodes(TRIAL, 1, network=Network.of(1, "k"), port=9) == (TRIAL,)


def test_launchers_of_this_host_meet_at_loopback() -> None:
    first, second = on_nodes(TRIAL, 2, network=None, port=9)
    where = ("--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", "9", "--node-rank")
    assert first.words == (*where, "0", "train.py")
    assert second.words == (*where, "1", "train.py")
    assert command_of(second)[0] != "nsenter"


def test_hosts_meet_at_the_address_of_the_first() -> None:
    network = Network.of(2, "k")
    parts = on_nodes(TRIAL, 2, network=network, port=9)
    for host, part in enumerate(parts):
        assert part.words[3] == network.addresses[0]
        assert command_of(part)[:2] == ["nsenter", f"--net=/run/netns/{network.names[host]}"]


@pytest.mark.parametrize(
    ("codes", "code"), [([0, 0], 0), ([0, 75], 75), ([None, 1], None), ([0, None], None), ([3], 3)]
)
def test_the_code_of_all_nodes(codes: list[int | None], code: int | None) -> None:
    assert code_of(codes) == code
