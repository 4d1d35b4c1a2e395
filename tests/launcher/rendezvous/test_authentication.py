"""Messages under an HMAC: what opens, and what is dropped."""

import random

import pytest

from launcher.rendezvous.authentication import MAX_CHARS, MessageAuthenticator, Opened
from launcher.rendezvous.mailbox import SESSION, Mailbox

SEAL = MessageAuthenticator(b"a secret of the run", "job", "session")


class FakeStore:
    """As torch's TCPStore, in one process."""

    def __init__(self):
        self.values = {}

    def set(self, key, value):
        self.values[key] = value.encode() if isinstance(value, str) else value

    def get(self, key):
        return self.values[key]

    def multi_get(self, keys):
        return [self.values[key] for key in keys]

    def check(self, keys):
        return all(key in self.values for key in keys)

    def compare_set(self, key, expected, desired):
        if self.values.get(key, b"") == expected.encode():
            self.set(key, desired)
        return self.values[key]


@pytest.mark.parametrize("body", ["", "a.b.c", '{"code": 75}', "ü\n\0", "x" * 10_000])
def test_what_is_sealed_opens(body):
    text = SEAL.close("node/1", 7, body)
    assert SEAL.open("node/1", text.encode()) == Opened(counter=7, body=body)


@pytest.mark.parametrize(
    ("seal", "place"),
    [
        (MessageAuthenticator(b"a secret of another", "job", "session"), "node/1"),
        (MessageAuthenticator(b"", "job", "session"), "node/1"),
        (MessageAuthenticator(b"a secret of the run", "job2", "session"), "node/1"),
        (MessageAuthenticator(b"a secret of the run", "job", "an earlier session"), "node/1"),
        (MessageAuthenticator(b"a secret of the run", "jobs", "ession"), "node/1"),
        (SEAL, "node/2"),
        (SEAL, "lead"),
    ],
)
def test_what_another_sealed_or_for_another_place_does_not_open(seal, place):
    assert seal.open(place, SEAL.close("node/1", 7, "body").encode()) is None


def test_no_byte_can_be_changed():
    data = SEAL.close("lead", 12, '{"attempt": 3}').encode()
    for position in range(len(data)):
        for other in (b"0", b"\xff", b".", b"9"):
            if data[position : position + 1].lower() != other:
                forged = data[:position] + other + data[position + 1 :]
                assert SEAL.open("lead", forged) is None
    for cut in range(len(data)):
        assert SEAL.open("lead", data[:cut]) is None


def test_random_bytes_are_dropped():
    chance = random.Random(0)
    good = SEAL.close("lead", 1, "{}").encode()
    for _ in range(3000):
        data = chance.randbytes(chance.randrange(200))
        assert SEAL.open("lead", data) is None
        assert SEAL.open("lead", good[: chance.randrange(len(good))] + data) is None


def test_too_long_is_not_looked_into():
    assert SEAL.open("lead", b"0" * (MAX_CHARS + 1)) is None
    with pytest.raises(ValueError, match="characters"):
        SEAL.close("lead", 1, "x" * MAX_CHARS)


def boxes(secret=b"a secret of the run"):
    """Return a store, node 0's mailbox and that of another node that has met it."""
    store = FakeStore()
    leader = Mailbox(store, b"a secret of the run", "job", "session")
    other = Mailbox(store, secret, "job", None)
    assert other.meet() is None
    assert leader.meet() == "session"
    assert other.meet() == "session"
    return store, leader, other


def test_messages_go_both_ways():
    _, leader, other = boxes()
    assert other.get("lead") is None
    leader.put("lead", "follow me")
    other.put("node/1", "here")
    assert (other.get("lead"), leader.get("node/1")) == ("follow me", "here")
    assert leader.strange == other.strange == set()


def test_an_earlier_message_is_not_taken_again():
    store, leader, other = boxes()
    kept = []
    for number in range(3):
        leader.put("lead", f"order {number}")
        kept.append(store.values["lead"])
        assert other.get("lead") == f"order {number}"
    for old in kept[:2]:
        store.set("lead", old)
        assert other.get("lead") == "order 2"
        assert other.strange == {"lead"}
    store.set("lead", kept[2])
    assert other.get("lead") == "order 2"
    assert other.strange == set()


def test_a_stranger_s_message_leaves_the_last_good_one():
    store, leader, other = boxes()
    leader.put("lead", "follow me")
    assert other.get("lead") == "follow me"
    chance = random.Random(1)
    for _ in range(300):
        store.set("lead", chance.randbytes(chance.randrange(300)))
        assert other.get("lead") == "follow me"
    store.set("lead", b"9" * (8 << 20))
    assert other.get("lead") == "follow me"
    assert other.strange == {"lead"}
    assert len(other._newest) == 1
    leader.put("lead", "and on")
    assert (other.get("lead"), other.strange) == ("and on", set())


def test_another_secret_reads_and_says_nothing():
    _, leader, other = boxes(b"a secret of another")
    leader.put("lead", "follow me")
    other.put("node/1", "here")
    assert other.get("lead") is leader.get("node/1") is None
    assert (other.strange, leader.strange) == ({"lead"}, {"node/1"})


def test_a_place_is_one_node_s():
    store, leader, other = boxes()
    store.set("claim/2", b"a stranger's")
    assert leader.claim("claim/1", "mine") == "mine"
    assert other.claim("claim/1", "yours") == "mine"
    assert other.claim("claim/2", "yours") == "yours"
    assert leader.claim("claim/2", "mine") == "yours"


def test_a_session_that_a_stranger_wrote_is_left_again():
    store, leader, other = boxes()
    store.set(SESSION, b"\xff" * 500)
    assert other.meet() != "session"
    assert leader.meet() == "session"
    assert other.meet() == "session"
    leader.put("lead", "follow me")
    assert other.get("lead") == "follow me"
