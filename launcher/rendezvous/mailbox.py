"""The places in node 0's store where the nodes keep their messages, sealed.

Anybody who reaches the store can write there. What does not carry the run's seal, is older than
what was read at that place before, or is too long is dropped, and the last good message stays.
"""

from collections.abc import Sequence
from typing import Protocol

from .authentication import MessageAuthenticator, Opened

SESSION = "session"
"""Where node 0 keeps the word that it has drawn for this start; no secret."""
_MAX_SESSION_BYTES = 64
_AHEAD = 2**32


class Store(Protocol):
    """What is used of a TCPStore."""

    def set(self, key: str, value: str, /) -> None:
        """Replace a value."""

    def get(self, key: str, /) -> bytes:
        """Return a value; waits where there is none."""

    def multi_get(self, keys: list[str], /) -> list[bytes]:
        """Return several values in one request; waits where there is none."""

    def check(self, keys: list[str], /) -> bool:
        """Return whether all the values are there."""

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """Replace a value that is as expected ("": none); return what is there then."""


class Mailbox:
    """Reads and writes the messages; used by one thread."""

    def __init__(self, store: Store, secret: bytes, run_id: str, session: str | None) -> None:
        """Prepare.

        Args:
            store: Where the messages stand.
            secret: What the nodes share; may be empty.
            run_id: The run's name.
            session: What node 0 has drawn; None on the other nodes, which read it.
        """
        self._store = store
        self._secret, self._run_id = secret, run_id
        self._leads = session is not None
        self._session: str | None = None
        self._seal: MessageAuthenticator | None = None
        self._counter = 0
        self._newest: dict[str, Opened] = {}
        self._there: set[str] = set()
        """Places where something stands: from then on there always does."""
        self.strange: set[str] = set()
        """The places where what stands there now was dropped."""
        if session is not None:
            self._begin(session)

    def meet(self) -> str | None:
        """Agree on the session; returns it, None where node 0 has not drawn one yet.

        Called before each exchange until node 0 is known to answer: until then what stands there
        may be somebody else's.
        """
        if self._leads:
            assert self._session is not None
            self._store.set(SESSION, self._session)
        elif self._store.check([SESSION]):
            data = self._store.get(SESSION)[:_MAX_SESSION_BYTES]
            session = data.decode("ascii", errors="replace")
            if session != self._session:
                self._begin(session)
        return self._session

    def put(self, place: str, body: str) -> None:
        """Replace this node's message at a place."""
        self._store.set(place, self._closed(place, body))

    def get(self, place: str) -> str | None:
        """Return the newest good message of a place, None where there has been none."""
        return self.get_all([place])[place]

    def get_all(self, places: Sequence[str]) -> dict[str, str | None]:
        """Return what `get` does for several places, all as they are at one moment.

        It is one request to the store, and one more for each place where nothing has stood so far.
        """
        self._there.update(p for p in places if p not in self._there and self._store.check([p]))
        there = [place for place in places if place in self._there]
        found = self._store.multi_get(there) if there else []
        for place, data in zip(there, found, strict=True):
            self._take(place, data)
        newest = {place: self._newest.get(place) for place in places}
        return {place: None if one is None else one.body for place, one in newest.items()}

    def _take(self, place: str, data: bytes) -> None:
        assert self._seal is not None
        before, opened = self._newest.get(place), self._seal.open(place, data)
        if opened is None or (before is not None and opened.counter < before.counter):
            self.strange.add(place)
        else:
            self.strange.discard(place)
            self._newest[place] = opened

    def claim(self, place: str, body: str) -> str:
        """Put a message where no node of this run has put one; return whose stands there then."""
        assert self._seal is not None
        mine = self._closed(place, body)
        opened = self._seal.open(place, self._store.compare_set(place, "", mine))
        if opened is not None:
            return opened.body
        self._store.set(place, mine)
        return body

    def count_on(self, place: str) -> None:
        """Count on from far above what another node has left at a place.

        Else this node's messages would be dropped as older; and that node, which was only thought
        to be lost, may still write there.
        """
        assert self._seal is not None
        if self._store.check([place]):
            left = self._seal.open(place, self._store.get(place))
            if left is not None:
                self._counter = max(self._counter, left.counter + _AHEAD)

    def free(self, place: str) -> None:
        """Let another node claim a place."""
        self._store.set(place, "")

    def _begin(self, session: str) -> None:
        self._session = session
        self._seal = MessageAuthenticator(self._secret, self._run_id, session)
        self._newest.clear()

    def _closed(self, place: str, body: str) -> str:
        assert self._seal is not None
        self._counter += 1
        return self._seal.close(place, self._counter, body)
