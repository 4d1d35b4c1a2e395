"""What the launcher and its fork server say to each other, on a socket pair that only they hold."""

import json
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

_LENGTH = struct.Struct("!I")
MAX_FDS = 4


class Gone(Exception):
    """The other side has ended, or said nothing within the bound."""


def send(channel: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message with open descriptors.

    Raises:
        Gone: The other side has ended.
    """
    data = json.dumps(message).encode()
    try:
        socket.send_fds(channel, [_LENGTH.pack(len(data))], fds)
        channel.sendall(data)
    except OSError as error:
        raise Gone(str(error)) from None


def receive(channel: socket.socket, bound_s: float | None) -> tuple[dict[str, Any], list[int]]:
    """Return the next message and its descriptors.

    Raises:
        Gone: The other side has ended, or `bound_s` seconds went by.
    """
    end = None if bound_s is None else time.monotonic() + bound_s
    try:
        _wait_until(channel, end)
        head, fds, _, _ = socket.recv_fds(channel, _LENGTH.size, MAX_FDS)
        if not head:
            raise Gone("it ended")
        missing = _LENGTH.unpack(head)[0]
        data = b""
        while missing:
            _wait_until(channel, end)
            part = channel.recv(missing)
            if not part:
                raise Gone("it ended")
            data += part
            missing -= len(part)
    except TimeoutError:
        raise Gone(f"it did not answer within {bound_s:g} s") from None
    except OSError as error:
        raise Gone(str(error)) from None
    return json.loads(data), fds


def _wait_until(channel: socket.socket, end: float | None) -> None:
    channel.settimeout(None if end is None else max(0.001, end - time.monotonic()))
