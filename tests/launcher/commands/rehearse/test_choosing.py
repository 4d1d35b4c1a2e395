"""Which kinds are drawn from, on one node and on several."""

import pytest

from launcher.commands.rehearse.choosing import chosen_kinds, without_network
from launcher.commands.rehearse.kinds import KINDS, SHORT_CUT_S
from launcher.errors import UsageError
from launcher.rendezvous.node_link import LOST_S

OF_SEVERAL = ["node-notice", "node-lost", "node-killed", "leader-killed"]
OF_A_NETWORK = ["network-cut", "network-cut-short"]


def test_an_unknown_fault_lists_the_valid_ones() -> None:
    with pytest.raises(UsageError) as refused:
        chosen_kinds(["kill-ranks"])
    assert 'unknown fault "kill-ranks"; did you mean kill-rank?' in str(refused.value)
    assert all(name in str(refused.value) for name in KINDS)


def test_on_one_node_those_of_several_alone_are_not_drawn() -> None:
    names = {kind.name for kind in chosen_kinds([])}
    assert {*KINDS} - names == {"node-killed", "leader-killed", *OF_A_NETWORK}


def test_on_several_nodes_all_are_as_exact_as_the_undisturbed_run() -> None:
    kinds = chosen_kinds([], nodes=3)
    assert [kind.name for kind in kinds] == OF_SEVERAL + OF_A_NETWORK
    assert all(kind.nodes == 3 and kind.is_exact for kind in kinds)


@pytest.mark.parametrize(
    ("name", "nodes", "sentence"),
    [
        ("node-killed", 1, "--only node-killed is about several nodes: pass --nnodes 2."),
        ("kill-rank", 2, "--only kill-rank is about one node: leave out --nnodes 2, or choose"),
    ],
)
def test_a_kind_of_another_number_of_nodes(name: str, nodes: int, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        chosen_kinds([name], nodes=nodes)
    assert str(refused.value).startswith(sentence)


def test_each_remedy_is_one() -> None:
    assert [kind.name for kind in chosen_kinds(["node-killed"], nodes=2)] == ["node-killed"]
    assert [kind.name for kind in chosen_kinds(["kill-rank"])] == ["kill-rank"]


def test_without_a_network_nothing_is_cut() -> None:
    left, text = without_network(chosen_kinds([], nodes=2), "ip netns add: not permitted")
    assert [kind.name for kind in left] == OF_SEVERAL
    assert text is not None
    assert text.startswith("network-cut and network-cut-short are skipped: no network")
    assert "(ip netns add: not permitted)" in text
    assert without_network(left, "any") == (left, None)
    with pytest.raises(UsageError, match=r"choose other faults with --only\.$"):
        without_network(chosen_kinds(["network-cut"], nodes=2), "any")


def test_a_short_cut_is_shorter_than_a_loss() -> None:
    """The kernel sends again after 0.2, 0.6, 1.4, 3.0 s: at the latest one second after it."""
    assert SHORT_CUT_S + 1.0 < LOST_S / 2
