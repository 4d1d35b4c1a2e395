"""Which kinds of faults a rehearsal draws from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import UsageError
from ...plan.given_options import nearest
from .kinds import KINDS, FaultKind


def chosen_kinds(names: Sequence[str], *, nodes: int = 1) -> list[FaultKind]:
    """Return the kinds of these names; of none: all that can be played on so many nodes. Pure.

    Raises:
        UsageError: there is no kind of such a name, or it is not one of so many nodes.
    """
    for name in names:
        if name not in KINDS:
            raise UsageError(
                f'unknown fault "{name}"{nearest(name, KINDS)} Choose from {", ".join(KINDS)}.'
            )
        _require_nodes(KINDS[name], nodes)
    chosen = [KINDS[name] for name in names] or [
        kind for kind in KINDS.values() if _is_of(kind, nodes)
    ]
    if nodes == 1:
        return chosen
    # The undisturbed run has as many ranks, and so the same bits.
    return [replace(kind, nodes=nodes, is_exact=True) for kind in chosen]


def _is_of(kind: FaultKind, nodes: int) -> bool:
    return not kind.needs_nodes if nodes == 1 else kind.nodes > 1


def _require_nodes(kind: FaultKind, nodes: int) -> None:
    if _is_of(kind, nodes):
        return
    if nodes == 1:
        raise UsageError(f"--only {kind.name} is about several nodes: pass --nnodes 2.")
    others = ", ".join(one.name for one in KINDS.values() if _is_of(one, nodes))
    raise UsageError(
        f"--only {kind.name} is about one node: leave out --nnodes {nodes}, or choose from "
        f"{others}."
    )


def without_network(kinds: Sequence[FaultKind], reason: str) -> tuple[list[FaultKind], str | None]:
    """Return the kinds that need no network of their own, and a sentence on the others. Pure.

    Args:
        kinds: those that were chosen.
        reason: why none can be made.

    Raises:
        UsageError: none is left.
    """
    left = [kind for kind in kinds if not kind.needs_network]
    names = [kind.name for kind in kinds if kind.needs_network]
    if not names:
        return left, None
    text = (
        f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} skipped: no network of "
        f"virtual hosts can be made here ({reason}). It needs root, or the capabilities "
        "CAP_SYS_ADMIN and CAP_NET_ADMIN, and the ip command"
    )
    if not left:
        raise UsageError(f"{text}; choose other faults with --only.")
    return left, f"{text}."
