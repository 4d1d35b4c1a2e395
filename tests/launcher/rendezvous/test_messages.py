"""What follows from what the nodes tell each other."""

from dataclasses import replace

import pytest

from launcher.agent.attempts.history import merged
from launcher.contract.failure_order import Failure, Kind
from launcher.rendezvous.authentication import MAX_CHARS
from launcher.rendezvous.members.remote_status import RemoteStatus
from launcher.rendezvous.messages import (
    Lead,
    NodeEnd,
    NodeMessage,
    bounded,
    bounded_text,
    bundled,
    code_of_nodes,
    first_to_fail,
    refusal,
    seen_elsewhere,
    unbundled,
    whole_report,
)
from launcher.rendezvous.node_texts import missing_text, waiting_text

MINE = NodeMessage(node_rank=0, host="a", nnodes="2:2", local_world_size=2)


def end(code=0, failed_after_s=None, **more):
    fields = {
        "num_ranks": 2,
        "lived_s": 9.0,
        "joined": False,
        "gives_signs": True,
        "step": None,
        "error": None,
        "report": "",
    }
    failure = None if failed_after_s is None else failed(failed_after_s)
    return NodeEnd(code=code, **{"failure": failure, **fields, **more})


def failed(after_s, kind=Kind.EXIT):
    return Failure(earliest_s=after_s - 0.05, latest_s=after_s, kind=kind)


def test_messages_survive_the_way():
    message = replace(MINE, end=end(7, 1.5, report="ü\n"), beat=3, warned_by=15)
    assert NodeMessage.from_json(message.to_json()) == message
    assert NodeMessage.from_json(MINE.to_json()) == MINE
    lead = Lead(attempt=2, members=(0, 2), port=5, refused={"1": "no"}, joining=(3,))
    assert Lead.from_json(lead.to_json()) == lead


def test_a_bundle_has_no_reports():
    one = replace(MINE, node_rank=1, end=end(7, 1.5, report="long", error="long", step=3))
    found = unbundled(bundled([MINE, one]))
    assert found == {0: MINE, 1: replace(one, end=end(7, 1.5, step=3))}


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"end": {"code": 1}}'])
def test_what_is_no_message_is_refused(text):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        NodeMessage.from_json(text)


@pytest.mark.parametrize(
    ("other", "part"),
    [
        ({}, None),
        ({"nnodes": "3:3"}, "it was started with --nnodes 3:3, node 0 with --nnodes 2:2."),
        ({"local_world_size": 8, "node_rank": 1, "host": "b"}, None),
        ({"versions": "relaunch 9"}, "it has relaunch 9, and node 0 has relaunch 1. Install the"),
        ({"versions": ""}, None),
        ({"program": "b"}, None),
        ({"program": "b", "waits": True}, "are not those of the run that it would join."),
        ({"waits": True}, None),
    ],
)
def test_who_may_take_part(other, part):
    mine = replace(MINE, versions="relaunch 1", program="a")
    found = refusal(mine, replace(mine, **other))
    assert found is None if part is None else part in found


@pytest.mark.parametrize(
    ("ends", "first", "code"),
    [
        ({0: end(), 1: end()}, None, 0),
        ({0: end(75), 1: end(75)}, None, 75),
        ({0: end(), 1: end(75)}, None, 75),
        ({0: end(1, 5.2), 1: end(42, 5.1)}, 1, 42),
        ({0: end(1, 5.1), 1: end(42, 5.1)}, 0, 1),
        ({0: end(137), 1: end(3, 5.0)}, 1, 3),
        ({0: end(75), 1: end(137)}, None, 75),
        ({0: end(75), 1: end(3, 5.0)}, 1, 3),
        ({0: end(93), 1: end(3, 5.0)}, 1, 93),
        # It failed since the ranks of the other node had saved and left.
        ({0: end(75, left_s=4.0), 1: end(1, failure=failed(5.0, Kind.PEER))}, None, 75),
        ({0: end(75, left_s=5.05), 1: end(1, failure=failed(5.0, Kind.PEER))}, None, 75),
        ({0: end(75, left_s=6.0), 1: end(1, failure=failed(5.0, Kind.PEER))}, 1, 1),
        ({0: end(75, left_s=6.0), 1: end(143, failure=failed(5.0, Kind.NOTICE))}, None, 75),
        ({0: end(75, left_s=4.0), 1: end(1, failure=failed(5.0, Kind.EXCEPTION))}, 1, 1),
        ({0: end(0), 1: end(143, failure=failed(5.0, Kind.NOTICE))}, 1, 143),
        ({0: end(93, left_s=4.0), 1: end(1, failure=failed(5.0, Kind.PEER))}, None, 93),
        ({0: end(0), 1: end(137)}, None, 137),
        # Nodes do not begin at exactly the same moment: near each other the kind decides.
        (
            {
                0: end(1, failure=failed(5.0, Kind.EXCEPTION)),
                1: end(2, failure=failed(5.1, Kind.SENTENCE)),
            },
            1,
            2,
        ),
        (
            {
                0: end(1, failure=failed(5.0, Kind.EXCEPTION)),
                1: end(2, failure=failed(5.3, Kind.SENTENCE)),
            },
            0,
            1,
        ),
    ],
)
def test_the_earliest_failure_counts(ends, first, code):
    assert first_to_fail(ends) == first
    assert code_of_nodes(ends) == code


@pytest.mark.parametrize(
    ("ends", "num_lost", "seen"),
    [
        ({1: None, 2: None}, 0, RemoteStatus()),
        ({1: end(0), 2: None}, 0, RemoteStatus()),
        ({1: end(75), 2: None}, 0, RemoteStatus(left=True)),
        ({1: end(42, 5.1), 2: end(75)}, 0, RemoteStatus(failed=True, left=True)),
        (
            {1: end(137, hung=True, step=5), 2: end(137, hung=True)},
            0,
            RemoteStatus(failed=True, hung="no rank of node 1 (a) made progress after step 5"),
        ),
        ({1: end(75, early=True), 2: None}, 0, RemoteStatus(left=True, early=True)),
        ({1: None}, 1, RemoteStatus(lost=True)),
        ({3: end(42)}, 0, RemoteStatus()),
    ],
)
def test_what_the_others_messages_say_of_an_attempt(ends, num_lost, seen):
    others = {node: replace(MINE, node_rank=node, attempt=4, end=its) for node, its in ends.items()}
    how = {"members": (0, 1, 2), "num_lost": num_lost}
    assert seen_elsewhere(others, attempt=4, **how) == seen
    assert seen_elsewhere(others, attempt=5, **how) == RemoteStatus(lost=num_lost > 0)


def test_for_whom_a_node_waits():
    assert waiting_text({1: "b", 0: "a"}, 61) == (
        "the ranks here have ended; waiting for those of node 0 (a), 1 (b), 61 s so far."
    )


def test_the_report_is_that_of_the_node_which_failed_first():
    ends = {0: end(1, 5.2, report="peer gone"), 1: end(42, 5.1, report="the cause")}
    assert whole_report(ends, {0: "a", 1: "b"}) == "on node 1 (b):\nthe cause"
    assert whole_report({0: end(), 1: end()}, {0: "a", 1: "b"}) == ""
    ended = {0: end(143, report="rank 0 ended on SIGTERM"), 1: end(143)}
    assert whole_report(ended, {0: "a", 1: "b"}) == "rank 0 ended on SIGTERM"


def test_a_node_that_fell_since_the_others_had_left_is_told_in_one_line():
    fell = end(1, failure=failed(5.0, Kind.PEER), report="rank 1 failed\nand so on")
    ends = {0: end(75, left_s=4.0, report="saved"), 1: fell}
    assert whole_report(ends, {0: "a", 1: "b"}).splitlines() == [
        "saved",
        "the ranks of node 1 (b) ended because the others had saved and exited: this is not a "
        "failure.",
    ]


def test_ranks_that_were_ended_where_the_run_is_saved_are_no_loss():
    ends = {0: end(75, left_s=4.0), 1: end(143, report="rank 1 ended before the run was saved")}
    assert whole_report(ends, {0: "a", 1: "b"}) == ""
    ends[0] = end(0)
    assert whole_report(ends, {0: "a", 1: "b"}) == "rank 1 ended before the run was saved"


def test_one_record_of_an_attempt_on_several_nodes():
    record = merged(
        {0: end(1, 5.2, step=6, error="A"), 1: end(42, 5.1, step=7, error="B", lived_s=11.0)}, 42
    )
    assert (record.code, record.step, record.error, record.lived_s) == (42, 7, "B", 11.0)
    assert record.progressed


def test_what_a_node_says_fits_into_a_message():
    long = end(1, 5.2, report="x" * 10**6 + "the cause", error="e" * 10**6)
    message = replace(MINE, end=bounded(long))
    assert len(message.to_json()) < MAX_CHARS / 2
    assert message.end.report.endswith("the cause")
    assert bounded(end(1, 5.2, report="short")) == end(1, 5.2, report="short")
    worst = Lead(attempt=0, members=(), port=0, said=bounded_text("\U0001f600" * 10**6))
    assert len(worst.to_json()) < MAX_CHARS / 2


def test_missing_nodes_are_named():
    assert missing_text([1, 3], 4, 30.2, "a:29500") == (
        "waiting for nodes 1, 3 of 4 at a:29500, 30 s so far. Start the same command there, with "
        "its own --node-rank."
    )
    assert missing_text([1], 2, 3, "a:1").startswith("waiting for node 1 of 2")
