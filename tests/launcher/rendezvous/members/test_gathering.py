"""Which nodes take part, and how often it is said for whom a node waits."""

from dataclasses import replace

from launcher.rendezvous.members.gathering import Gathering
from launcher.rendezvous.messages import NodeMessage
from launcher.rendezvous.reminder import PATIENCE_S, REMIND_S, Reminder

LAST_CALL_S = 30.0
MINE = NodeMessage(node_rank=0, host="a", nnodes="2:3", local_world_size=2)
ONE, TWO = (replace(MINE, node_rank=node, host="bc"[node - 1]) for node in (1, 2))


def test_all_nodes_begin_at_once():
    gathering = Gathering(MINE, num_min=2, num_max=3, last_call_s=LAST_CALL_S)
    assert gathering.look({}) == []
    assert not gathering.is_complete(0.0)
    gathering.look({2: TWO, 1: ONE})
    assert gathering.members == (0, 1, 2)
    assert gathering.is_complete(0.0)


def test_enough_nodes_wait_for_the_rest_for_a_while():
    gathering = Gathering(MINE, num_min=2, num_max=3, last_call_s=LAST_CALL_S)
    gathering.look({2: TWO})
    assert not gathering.is_complete(0.0)
    assert not gathering.is_complete(LAST_CALL_S - 1)
    gathering.look({2: replace(TWO, leaves=True)})
    assert not gathering.is_complete(LAST_CALL_S)
    gathering.look({2: TWO})
    assert not gathering.is_complete(LAST_CALL_S + 1)
    assert gathering.is_complete(2 * LAST_CALL_S + 1)
    assert gathering.members == (0, 2)


def test_a_node_with_other_words_is_refused_once():
    gathering = Gathering(MINE, num_min=2, num_max=3, last_call_s=LAST_CALL_S)
    others = {1: replace(ONE, nnodes="2:2"), 2: TWO}
    (sentence,) = gathering.look(others)
    assert sentence.startswith("node 1 (b) may not take part: it was started with --nnodes 2:2")
    assert gathering.look(others) == []
    assert gathering.members == (0, 2)
    assert list(gathering.refused) == ["1"]


def test_a_reminder_is_patient_first_and_rare_then():
    said, now = [], [100.0]
    reminder = Reminder(said.append, clock=lambda: now[0])
    for second in range(70):
        now[0] = 100.0 + second
        reminder.remind(f"{reminder.waited_s:g} s")
    assert said == [f"{PATIENCE_S + turn * REMIND_S:g} s" for turn in range(3)]
