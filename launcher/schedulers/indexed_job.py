"""A start in a pod of an indexed Job of Kubernetes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..agent.cluster import ClusterEnvironment
from ..errors import UsageError
from ..plan import option_types as values
from ..plan.given_options import Given, Words

INDEX = "JOB_COMPLETION_INDEX"
"""The number of the pod in its Job, from 0; Kubernetes sets it in each container."""


def find(
    environ: Mapping[str, str], argv: Sequence[str], say: Callable[[str], None]
) -> ClusterEnvironment:
    """Return this pod's place in its Job."""
    return IndexedJob(environ)


class IndexedJob(ClusterEnvironment):
    """A pod of an indexed Job; its index is the node rank if nothing else gives one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._index = environ[INDEX]

    def supply(self, words: Words) -> Words:
        """See ClusterEnvironment."""
        return with_index(words, self._index)


def with_index(words: Words, index: str) -> Words:
    """Return the words with the pod's index as `--node-rank`, where that is missing; pure.

    A Job whose pods are runs of their own (`--nnodes` is 1) has an index too, and nodes that are
    numbered as they arrive (`--rdzv-backend c10d`) need none.

    Raises:
        UsageError: `--nnodes` is no number of nodes, or the index is none of theirs.
    """
    nnodes = values.optional(words.given.get("--nnodes"), values.nnodes)
    by_arrival = (words.text("--rdzv-backend") or "static") != "static"
    if nnodes is None or nnodes[1] == 1 or by_arrival or "--node-rank" in words.given:
        return words
    rank = Given(text=index, spelled=f"{INDEX}={index}")
    if values.whole(rank) >= nnodes[1]:
        raise UsageError(
            f"{rank.spelled}, but {words.given['--nnodes'].spelled}: the nodes are 0 to "
            f"{nnodes[1] - 1}. Set completions and parallelism of the Job to the number of nodes."
        )
    return replace(words, given={**words.given, "--node-rank": rank})
