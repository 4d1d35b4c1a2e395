"""A start inside a job of Flux, from its environment.

Nothing here has run on a real Flux. The user starts one task on each node.
"""

from collections.abc import Callable, Mapping, Sequence

from ..agent.cluster import ClusterEnvironment, is_by_hand
from ..errors import UsageError
from ..plan.given_options import Words
from .given import check_nodes, node_options, with_options

PORT = 29500


def find(
    environ: Mapping[str, str], argv: Sequence[str], say: Callable[[str], None]
) -> ClusterEnvironment:
    """Return this process's place in its job."""
    return FluxEnvironment(environ)


class FluxEnvironment(ClusterEnvironment):
    """What Flux adds: the number of nodes, and the rank of this one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._job = environ["FLUX_JOB_ID"]
        self._numbers = {
            name: _number(name, environ.get(name, "1"))
            for name in ("FLUX_JOB_NNODES", "FLUX_JOB_SIZE")
        }
        self._rank = _number("FLUX_TASK_RANK", environ["FLUX_TASK_RANK"])

    def supply(self, words: Words) -> Words:
        """See ClusterEnvironment."""
        if is_by_hand(words):
            return words
        num_nodes, num_tasks = self._numbers["FLUX_JOB_NNODES"], self._numbers["FLUX_JOB_SIZE"]
        source = f"Flux job {self._job}"
        line = f"flux run --nodes={num_nodes} --tasks-per-node=1 relaunch ..."
        if num_tasks != num_nodes:
            raise UsageError(
                f"{source} has {num_tasks} tasks on {num_nodes} nodes, but relaunch starts the "
                f"ranks of a node itself and needs one task on each. Write: {line}"
            )
        check_nodes(words, num_nodes, source, "Ask for nodes with: flux run --nodes=N")
        more = {"--rdzv-id": self._job}
        if num_nodes > 1:
            addr = words.text("--master-addr")
            if addr is None:
                raise UsageError(
                    f"{source} has {num_nodes} nodes, and its environment does not name them. Pass "
                    "--master-addr with the first host of: flux jobs -no '{nodelist}' "
                    f"{self._job}"
                )
            more |= node_options(self._rank, num_nodes, addr, PORT)
        return with_options(words, more, source)

    def describe(self) -> tuple[str, ...]:
        """See ClusterEnvironment."""
        return (f"Flux job {self._job}",)


def _number(name: str, text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise UsageError(f"{name}={text} in the environment is not a number; Flux did not write that.")
