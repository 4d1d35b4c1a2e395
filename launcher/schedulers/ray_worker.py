"""A start inside a worker of Ray Train, by the bridge `launcher.bridges.RelaunchTrainLoop`.

The bridge passes the nodes as options. What Ray says of a preemption it writes into a file before
it sends SIGTERM.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..agent.cluster import ClusterEnvironment, NoAdvice, PreemptionCause
from ..contract.environment import RAY_NOTICE
from ..contract.preemption import PreemptionNotice


def find(
    environ: Mapping[str, str], argv: Sequence[str], say: Callable[[str], None]
) -> ClusterEnvironment:
    """Return this worker's place."""
    return RayWorker(Path(environ[RAY_NOTICE]))


class RayAdvice(NoAdvice):
    """Knows from the bridge why a notice came, and when Ray takes the node away."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def ask(self, signum: int) -> None:
        """See PreemptionCause; a notice of another origin has no file."""
        self._found = PreemptionNotice.read(self._file)


class RayWorker(ClusterEnvironment):
    """What Ray adds: the cause and the deadline of a notice."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def advice(self) -> PreemptionCause:
        """See ClusterEnvironment."""
        return RayAdvice(self._file)

    def describe(self) -> tuple[str, ...]:
        """See ClusterEnvironment."""
        return ("a worker of Ray Train",)
