"""Who takes part in a run of several nodes: decided on node 0 from who has come so far."""

from collections.abc import Mapping

from ..messages import NodeMessage, refusal


class Gathering:
    """The nodes that have come; looked at again and again until they are complete."""

    def __init__(
        self, mine: NodeMessage, *, num_min: int, num_max: int, last_call_s: float
    ) -> None:
        self._mine, self._last_call_s = mine, last_call_s
        self._num_min, self._num_max = num_min, num_max
        self._enough_since: float | None = None
        self.refused: dict[str, str] = {}
        """Node rank to the reason why that node may not take part."""
        self.members: tuple[int, ...] = (mine.node_rank,)
        """Those that may, in the order of their ranks."""

    def look(self, others: Mapping[int, NodeMessage]) -> list[str]:
        """Take the messages that stand there now; return a sentence on each node newly refused."""
        said = []
        for node, message in others.items():
            if str(node) not in self.refused and (why := refusal(self._mine, message)):
                self.refused[str(node)] = why
                said.append(f"node {node} ({message.host}) may not take part: {why}")
        coming = sorted(n for n, m in others.items() if str(n) not in self.refused and not m.leaves)
        self.members = (self._mine.node_rank, *coming)
        return said

    def is_complete(self, now: float) -> bool:
        """Return whether the run can begin; `now` is of one monotonic clock, in seconds."""
        if len(self.members) >= self._num_max:
            return True
        if len(self.members) < self._num_min:
            self._enough_since = None
            return False
        if self._enough_since is None:
            self._enough_since = now
        return now - self._enough_since >= self._last_call_s
