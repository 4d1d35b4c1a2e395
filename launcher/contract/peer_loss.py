"""Which words of a failed rank mean that another rank is gone: pure.

A rank that leaves closes its connections. Who still talks to it fails, in the words of gloo, NCCL,
torch's store or our own channel between ranks.
"""

import re

_TORCH = re.compile(r"(torch\.distributed\.|.*'c10::)?Dist(Backend|Network|Store)Error\b")
"""Also in the last words of a process that NCCL's watchdog ended."""
_RUNTIME = re.compile(
    r"RuntimeError: .*("
    r"Connection closed by peer|Connection reset by peer|Connection refused|Broken pipe"
    r"|remote process exited|connectFullMesh failed|ncclRemoteError"
    r")",
    re.DOTALL,
)
_OURS = re.compile(
    r"([\w.]*LostRankError: )?rank \d+ has closed its connection to rank \d+", re.ASCII
)

_TRANSPORT = re.compile(
    r"(\w*Error): .*(third_party/gloo|\bGloo\b|ProcessGroup|\bNCCL\b)", re.DOTALL
)
"""What torch says of any trouble between the ranks, such as one that has waited too long."""


def is_peer_loss(text: str | None) -> bool:
    """Return whether a rank failed since its connection to another one broke.

    Args:
        text: The exception with its type in front, or the sentence that the rank left; None: it
            said nothing.
    """
    return text is not None and any(p.match(text) for p in (_TORCH, _RUNTIME, _OURS))


def is_of_connection(text: str) -> bool:
    """Return whether an exception came from what connects the ranks, which is of no use then.

    Args:
        text: The exception with its type in front.
    """
    return is_peer_loss(text) or _TRANSPORT.match(text) is not None
