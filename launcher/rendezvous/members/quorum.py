"""Which part of a run continues when its nodes can no longer reach each other: pure.

A node cannot distinguish a dead node from one behind a cut cable, and two parts that both continue
would write into one run folder. So a part continues only if no other part can reach the same
conclusion.
"""

from collections.abc import Collection


def has_quorum(
    staying: Collection[int], members: Collection[int], dead: Collection[int] = ()
) -> bool:
    """Return whether a part of the nodes may continue without the rest.

    Args:
        staying: The nodes of this part.
        members: All nodes of the attempt that is over.
        dead: Those among them that are known to have ended: they continue nowhere.

    Returns:
        Whether this part has more than half of the others, or half of them with the lowest node.
    """
    electorate = set(members) - set(dead)
    votes = electorate & set(staying)
    if 2 * len(votes) == len(electorate):
        return bool(votes) and min(electorate) in votes
    return 2 * len(votes) > len(electorate)
