"""Slurm's short form of a list of nodes: `n[1-3,07],gpu[0-1]x[2-3]`; pure."""

import re
from collections.abc import Iterator
from itertools import product

from ...errors import UsageError

MOST_NODES = 65536
"""What `scontrol show hostnames` expands at most."""

_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\],\s]+)")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_REPEATED = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def expand_nodes(text: str) -> tuple[str, ...]:
    """Return the names in Slurm's order; a leading zero in a range keeps its width.

    Raises:
        UsageError: The text is no list of nodes.
    """
    names: list[str] = []
    for entry in _entries(text):
        names += _expand_entry(entry, text)
        if len(names) > MOST_NODES:
            raise UsageError(f'the node list "{text}" has more than {MOST_NODES} nodes.')
    return tuple(names)


def expand_counts(text: str) -> tuple[int, ...]:
    """Return the numbers behind `2(x3),1`: one for each node.

    Raises:
        UsageError: The text is no such list.
    """
    counts: list[int] = []
    for part in text.split(","):
        match = _REPEATED.fullmatch(part.strip())
        if match is None:
            raise UsageError(f'"{text}" is not a list of numbers such as "2(x3),1".')
        counts += [int(match[1])] * int(match[2] or 1)
    return tuple(counts)


def in_order(nodes: tuple[str, ...], listed: str) -> tuple[str, ...]:
    """Return the nodes as a file for `--distribution=arbitrary` lists them.

    They stay as they are where it does not name each of them.

    Args:
        nodes: In Slurm's order.
        listed: Names with commas or line ends between them; one that comes again counts once.
    """
    try:
        names = [name for line in listed.splitlines() for name in expand_nodes(line)]
    except UsageError:
        return nodes
    found = tuple(dict.fromkeys(name for name in names if name in nodes))
    return found if len(found) == len(nodes) else nodes


def _entries(text: str) -> Iterator[str]:
    """Yield what stands between the commas outside of brackets."""
    depth = begin = 0
    for place, character in enumerate(text):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if depth not in (0, 1):
            raise _no_list(text)
        if character == "," and depth == 0:
            yield text[begin:place].strip()
            begin = place + 1
    if depth:
        raise _no_list(text)
    yield text[begin:].strip()


def _expand_entry(entry: str, text: str) -> list[str]:
    if not entry:
        return []
    choices: list[list[str]] = []
    num_names, end, last = 1, 0, 0
    for match in _PART.finditer(entry):
        if match.start() != end:
            raise _no_list(text)
        end = match.end()
        last = last if match[1] is None else len(choices)
        choices.append([match[2]] if match[1] is None else _expand_ranges(match[1], text))
        num_names *= len(choices[-1])
        if num_names > MOST_NODES:
            raise UsageError(f'the node list "{text}" has more than {MOST_NODES} nodes.')
    if end != len(entry):
        raise _no_list(text)
    # Seen on 22.05: the last bracket counts fastest, then the first, the second, ...
    turns = [*(i for i in reversed(range(len(choices))) if i != last), last]
    expanded = []
    for chosen in product(*(choices[turn] for turn in turns)):
        parts = dict(zip(turns, chosen, strict=True))
        expanded.append("".join(parts[place] for place in range(len(choices))))
    return expanded


def _expand_ranges(ranges: str, text: str) -> list[str]:
    names: list[str] = []
    for part in ranges.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise _no_list(text)
        low, high = match[1], match[2] or match[1]
        if int(high) < int(low):
            raise UsageError(f'the node list "{text}" counts from {low} down to {high}.')
        if int(high) - int(low) >= MOST_NODES:
            raise UsageError(f'the node list "{text}" has more than {MOST_NODES} nodes.')
        names += [str(n).zfill(len(low)) for n in range(int(low), int(high) + 1)]
    return names


def _no_list(text: str) -> UsageError:
    return UsageError(f'"{text}" is not a list of nodes such as "n[1-3,7],gpu[01-02]".')
