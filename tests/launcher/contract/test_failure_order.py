"""Which failure is the cause, as a table of moments and kinds."""

from dataclasses import asdict

import pytest

from launcher.contract.failure_order import Failure, Kind, first_of, follows


def told(at_s, kind=Kind.EXCEPTION):
    return Failure(earliest_s=at_s, latest_s=at_s, kind=kind)


def sentence(at_s):
    return told(at_s, Kind.SENTENCE)


def seen(earliest_s, latest_s, kind):
    return Failure(earliest_s=earliest_s, latest_s=latest_s, kind=kind)


LOOK = {"earliest_s": 10.0, "latest_s": 10.05}
KILLED, SIGNAL, EXIT, LEFT = (
    Failure(**LOOK, kind=kind) for kind in (Kind.KILLED, Kind.SIGNAL, Kind.EXIT, Kind.SENTENCE)
)


@pytest.mark.parametrize(
    ("failures", "first"),
    [
        ([], None),
        ([told(10.0)], 0),
        # What was told: the earlier one.
        ([told(10.02), told(10.01)], 1),
        ([told(10.01), sentence(10.0)], 1),
        ([told(10.0), sentence(10.01)], 0),
        # A death without a word is the cause of what was told while it may have come.
        ([told(10.01), told(10.02), KILLED], 2),
        ([sentence(10.01), KILLED], 1),
        ([told(10.01), SIGNAL], 1),
        ([told(10.01), EXIT], 1),
        ([EXIT, sentence(10.01)], 1),
        # It was still seen running after a peer had told its failure.
        ([SIGNAL, told(9.9)], 1),
        ([SIGNAL, sentence(9.9)], 1),
        ([EXIT, sentence(9.9)], 1),
        ([KILLED, sentence(9.9)], 1),
        # SIGKILL alone is believed to have come long before its process was gone.
        ([KILLED, told(9.0)], 0),
        ([KILLED, told(9.0), sentence(8.0)], 2),
        ([KILLED, seen(8.0, 8.05, Kind.EXIT), told(9.0)], 1),
        # Nobody told anything: the look, then the kind, then the order.
        ([EXIT, EXIT], 0),
        ([EXIT, LEFT, EXIT], 1),
        ([EXIT, LEFT, SIGNAL], 2),
        ([SIGNAL, KILLED], 1),
        ([LEFT, seen(9.95, 10.0, Kind.EXIT)], 1),
    ],
)
def test_first(failures, first):
    assert first_of(dict(enumerate(failures))) == first


@pytest.mark.parametrize(
    ("tolerance_s", "first"),
    [(0.0, 0), (0.1, 1)],
)
def test_where_the_clocks_may_be_apart_the_kind_decides(tolerance_s, first):
    failures = {0: told(10.0), 1: seen(10.05, 10.2, Kind.SIGNAL)}
    assert first_of(failures, tolerance_s=tolerance_s) == first


def test_it_survives_the_way_to_another_node():
    assert Failure.from_json(asdict(KILLED.since(4.0))) == seen(
        6.0, KILLED.latest_s - 4, Kind.KILLED
    )


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    ("left_s", "tolerance_s", "by_peer", "by_notice"),
    [
        (None, 0.0, False, False),
        (9.0, 0.0, True, True),
        (10.0, 0.0, True, True),
        (10.05, 0.0, False, True),
        (10.05, 0.1, True, True),
    ],
)
def test_what_follows_from_a_leaving(kind, left_s, tolerance_s, by_peer, by_notice):
    expected = {Kind.PEER: by_peer, Kind.NOTICE: by_notice}.get(kind, False)
    assert follows(told(10.0, kind), left_s, tolerance_s=tolerance_s) is expected


def test_the_words_of_a_lost_peer_are_the_least_likely_cause():
    assert first_of({0: told(10.0, Kind.PEER), 1: told(10.0)}) == 1
    assert first_of({0: told(10.0, Kind.PEER), 1: KILLED}) == 1
    assert first_of({0: told(9.0, Kind.PEER), 1: KILLED}) == 1
