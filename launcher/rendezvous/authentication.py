"""Messages that only the nodes of one run can write: text with a counter under an HMAC; pure.

The key is made from what the nodes share (the secret, the run's id) and from a word that node 0
draws again at each start, so that nothing recorded in an earlier start opens in this one. The name
of the place where a message stands is under the HMAC too: it cannot be moved to another place.
"""

import hashlib
import hmac
from dataclasses import dataclass

MAX_CHARS = 1 << 20
"""Nothing longer is looked into; what a node has to say is cut far below."""

_CONTEXT = b"relaunch: messages between nodes, 3"
_TAG_CHARS = 2 * hashlib.sha256().digest_size
_MAX_COUNTER_CHARS = 18


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A message whose seal was right."""

    counter: int
    body: str


class MessageAuthenticator:
    """Seals and opens messages under one key."""

    def __init__(self, secret: bytes, run_id: str, session: str) -> None:
        """Derive the key.

        Args:
            secret: What all nodes of the run know and nobody else; may be empty.
            run_id: The run's name, the same on all nodes.
            session: What node 0 has drawn for this start.
        """
        self._key = _mac(secret, _CONTEXT, run_id.encode(), session.encode())

    def close(self, place: str, counter: int, body: str) -> str:
        """Return the message as it is to stand at the place.

        Raises:
            ValueError: It would be longer than MAX_CHARS.
        """
        head = str(counter)
        text = f"{self._tag(place, head, body)}.{head}.{body}"
        if len(text) > MAX_CHARS:
            raise ValueError(f"a message of {len(text)} characters; {MAX_CHARS} are allowed")
        return text

    def open(self, place: str, data: bytes) -> Opened | None:
        """Return what stands at the place, None where it does not carry this key's seal."""
        if len(data) > MAX_CHARS:
            return None
        tag, _, rest = data.partition(b".")
        head, _, body = rest.partition(b".")
        if len(tag) != _TAG_CHARS or not 0 < len(head) <= _MAX_COUNTER_CHARS:
            return None
        try:
            number, text = head.decode("ascii"), body.decode()
        except UnicodeDecodeError:
            return None
        if not hmac.compare_digest(tag, self._tag(place, number, text).encode()):
            return None
        return Opened(counter=int(number), body=text)

    def _tag(self, place: str, head: str, body: str) -> str:
        return _mac(self._key, place.encode(), head.encode(), body.encode()).hex()


def _mac(key: bytes, *parts: bytes) -> bytes:
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        # Each with its length, so that no two lists of parts are the same bytes.
        mac.update(len(part).to_bytes(8, "big") + part)
    return mac.digest()
