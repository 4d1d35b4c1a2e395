"""Who of the nodes that come late may take part, and how they get their places."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch._C._distributed_c10d import HashStore

from launcher.errors import RunOver, StartError, UsageError
from launcher.plan.launch_plan import LaunchPlan, make_plan
from launcher.plan.machine import Machine
from launcher.plan.options import LaunchOptions
from launcher.rendezvous.mailbox import Mailbox
from launcher.rendezvous.members.admission import Admission
from launcher.rendezvous.members.late_nodes import LateNodeWatch, digest_of_program, late_nodes
from launcher.rendezvous.messages import Lead, NodeMessage
from launcher.rendezvous.node_link import NodeLink

MINE = NodeMessage(node_rank=0, host="a", nnodes="1:4", local_world_size=2, program="p")
LATE = replace(MINE, node_rank=2, host="c", waits=True, nonce="n")


@pytest.mark.parametrize(
    ("message", "members", "silent", "joining", "refused"),
    [
        (LATE, (0, 1), (), (2,), set()),
        (replace(LATE, waits=False), (0, 1), (), (), set()),
        (replace(LATE, leaves=True), (0, 1), (), (), set()),
        (LATE, (0, 1), (2,), (), set()),
        (LATE, (0, 1, 2), (), (), set()),
        (replace(LATE, program="q"), (0, 1), (), (), {"2"}),
    ],
)
def test_who_may_take_part(
    message: NodeMessage,
    members: tuple[int, ...],
    silent: tuple[int, ...],
    joining: tuple[int, ...],
    refused: set[str],
) -> None:
    member = replace(MINE, node_rank=1)
    found = late_nodes(MINE, {2: message, 1: member}, members=members, silent=silent)
    assert (found.joining, set(found.refused)) == (joining, refused)


class Link:
    """What is used of a NodeLink."""

    def __init__(self, others: Mapping[int, NodeMessage], lead: Lead | None) -> None:
        self.message, self.others, self.lead = MINE, others, lead
        self.silent: list[int] = []
        self.freed: list[int] = []

    def lost(self, now: float) -> list[int]:
        return self.silent

    def free(self, nodes: Any) -> None:
        self.freed = list(nodes)

    def publish_lead(self, lead: Lead) -> None:
        self.lead = lead

    def publish(self, message: NodeMessage) -> None:
        self.message = message


RUNNING = Lead(attempt=0, members=(0, 1), port=1)


def watch(
    every_s: float, *, can_regroup: bool = True, said: list[str] | None = None
) -> LateNodeWatch:
    say: Callable[[str], None] = ([] if said is None else said).append
    found = LateNodeWatch(every_s=every_s, can_regroup=lambda: can_regroup, say=say)
    found.begin()
    time.sleep(0.002)
    return found


@pytest.mark.parametrize(
    ("lead", "every_s", "can_regroup", "joining"),
    [
        (RUNNING, 0.001, True, (2,)),
        (RUNNING, 100.0, True, ()),
        (RUNNING, 0.0, True, ()),
        (RUNNING, 0.001, False, ()),
        (replace(RUNNING, decided=True), 0.001, True, ()),
        (replace(RUNNING, joining=(3,)), 0.001, True, (3,)),
    ],
)
def test_when_they_are_named(
    lead: Lead, every_s: float, can_regroup: bool, joining: tuple[int, ...]
) -> None:
    link = Link({2: LATE}, lead)
    watch(every_s, can_regroup=can_regroup).look(cast(NodeLink, link), lambda: {2: "c"})
    assert link.lead is not None
    assert link.lead.joining == joining


def test_one_that_may_not_join_is_reported_once() -> None:
    said: list[str] = []
    link = Link({2: replace(LATE, program="q")}, RUNNING)
    looking = watch(0.001, said=said)
    for _ in range(3):
        looking.look(cast(NodeLink, link), lambda: {2: "c"})
        time.sleep(0.002)
    assert [line.partition(":")[0] for line in said] == ["node 2 (c) may not join"]
    link.others = {2: LATE}  # started again, as the others were
    looking.look(cast(NodeLink, link), lambda: {2: "c"})
    assert link.lead is not None
    assert (link.lead.joining, link.lead.refused) == ((2,), {})


def test_the_place_of_a_lost_node_is_freed() -> None:
    link = Link({1: replace(MINE, node_rank=1), 2: LATE}, RUNNING)
    link.silent = [1, 2]
    watch(0.001).find(cast(NodeLink, link))
    assert link.freed == [2], "1 is a member: its loss ends the attempt first"


def test_a_freed_place_is_claimed_and_what_was_left_there_is_older() -> None:
    store = cast(Any, HashStore())
    leader = Mailbox(store, b"secret", "job", "session")
    lost, late = (Mailbox(store, b"secret", "job", None) for _ in range(2))
    leader.meet()
    assert [lost.meet(), late.meet()] == ["session", "session"]
    assert lost.claim("claim/1", "lost") == "lost"
    for number in range(5):
        lost.put("node/1", str(number))
    assert leader.get("node/1") == "4"
    assert late.claim("claim/1", "late") == "lost"
    leader.free("claim/1")
    assert late.claim("claim/1", "late") == "late"
    late.count_on("node/1")
    late.put("node/1", "first")
    assert leader.get("node/1") == "first"
    lost.put("node/1", "from the past")
    assert leader.get("node/1") == "first"


@pytest.mark.parametrize(
    ("lead", "is_member", "attempt", "waits"),
    [
        (None, False, 0, False),
        (Lead(attempt=-1, members=(1,), port=0), False, 0, False),
        (Lead(attempt=-1, members=(0, 1), port=0), True, 0, False),
        (Lead(attempt=0, members=(0, 1), port=5), True, 0, False),
        (Lead(attempt=0, members=(1,), port=5), False, 0, True),
        (Lead(attempt=3, members=(1,), port=5, decided=True, restart=True), False, 4, True),
        (Lead(attempt=3, members=(0, 1), port=0, decided=True, restart=True), True, 4, False),
    ],
)
def test_a_node_is_let_in(lead: Lead | None, is_member: bool, attempt: int, waits: bool) -> None:
    link = Link({}, lead)
    admission = Admission(cast(NodeLink, link), 1, uses_run=True)
    assert (admission.is_given(), admission.attempt, link.message.waits) == (
        is_member,
        attempt,
        waits,
    )


@pytest.mark.parametrize(
    ("lead", "leaves", "error", "code", "words"),
    [
        (replace(RUNNING, decided=True), True, RunOver, 0, "the run ended before this node"),
        (replace(RUNNING, decided=True, code=75), True, RunOver, 75, "the run ended before"),
        (replace(RUNNING, refused={"0": "no."}), False, UsageError, 2, "refuses this node: no."),
        (RUNNING, True, None, 0, ""),
        (None, True, StartError, 1, "node 1 has left the run."),
    ],
)
def test_a_node_is_not_let_in(
    lead: Lead | None, leaves: bool, error: Any, code: int, words: str
) -> None:
    link = Link({1: replace(MINE, node_rank=1, leaves=leaves)}, lead)
    admission = Admission(cast(NodeLink, link), 1, uses_run=True)
    if error is None:
        assert admission.is_given()
        return
    with pytest.raises(error, match=words) as raised:
        admission.is_given()
    assert raised.value.exit_code == code


def test_why_a_node_waits() -> None:
    link = Link({}, None)
    assert Admission(cast(NodeLink, link), 1, uses_run=True).text(3) is None
    link.lead = RUNNING
    text = Admission(cast(NodeLink, link), 1, uses_run=True).text(3)
    assert text == (
        "the run is under way on 2 nodes. This node will join it after one of its next steps; "
        "waiting, 3 s so far."
    )
    plain = Admission(cast(NodeLink, link), 1, uses_run=False).text(3)
    assert plain is not None
    assert "when its ranks are restarted" in plain


def plan(folder: Path, text: str, *args: str, **options: Any) -> LaunchPlan:
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(text)
    asked = LaunchOptions(script=str(folder / "train.py"), script_args=args, **options)
    return make_plan(asked, Machine(num_gpus=0, num_cpus=2))


def test_what_the_ranks_run_has_one_digest_wherever_it_is(tmp_path: Path) -> None:
    there = plan(tmp_path / "a", "x = 1", "--lr", "1")
    same = plan(tmp_path / "b", "x = 1", "--lr", "1")
    others = (
        plan(tmp_path / "c", "x = 2", "--lr", "1"),
        plan(tmp_path / "c", "x = 1", "--lr", "2"),
    )
    assert digest_of_program(there) == digest_of_program(same)
    assert len({digest_of_program(one) for one in (there, *others)}) == 3
    strategy = SimpleNamespace(**vars(there))
    strategy.run = replace(there.run, strategy="fsdp")
    assert digest_of_program(cast(LaunchPlan, strategy)) != digest_of_program(there)
