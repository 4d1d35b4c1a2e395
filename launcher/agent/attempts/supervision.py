"""What the launcher does next with running ranks: one pure function of what it has seen so far."""

import enum
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How long each wait may last, in seconds."""

    grace_s: float | None = None
    """From a preemption notice to SIGKILL; None: the ranks take the time they need to save."""
    terminate_s: float = 10.0
    """From SIGTERM to SIGKILL, once the attempt is lost: a rank in a collective never returns."""
    leave_s: float = 60.0
    """From the first rank that left early to the end of the others' time to do the same."""
    handler_s: float = 60.0
    """How long a notice waits for a rank of ours to install its handler."""
    lost_s: float = 3.0
    """As `terminate_s`, once a node is lost: no collective ends any more, so nobody can save."""
    abandon_s: float = 10.0
    """From SIGKILL to giving up on a rank in an uninterruptible sleep."""

    @classmethod
    def of(
        cls, *, grace_s: float | None, terminate_s: float | None, uses_run: bool = False
    ) -> "Bounds":
        """Return the bounds with what was asked for; None leaves the one as it is.

        A rank that uses `Run` takes SIGTERM as a request to save, which it cannot do without the
        rank that has failed: there is little to wait for.
        """
        bounds = cls(grace_s=grace_s, terminate_s=2.0 if uses_run else cls.terminate_s)
        if terminate_s is None:
            return bounds
        return replace(bounds, terminate_s=terminate_s, lost_s=terminate_s)


class Action(enum.Enum):
    """What to do next."""

    WAIT = enum.auto()
    ASK = enum.auto()
    """Write down where the ranks are: none of them gets on."""
    WARN = enum.auto()
    """Tell every rank once that it should save and leave."""
    REGROUP = enum.auto()
    """As WARN, where other nodes are to take part in the next attempt."""
    TERMINATE = enum.auto()
    """SIGTERM: the attempt is lost, or the time to leave is over."""
    KILL = enum.auto()
    """SIGKILL to the ranks' process groups."""
    ABANDON = enum.auto()
    """Go on without ranks that even SIGKILL does not end."""
    DONE = enum.auto()


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What has been seen of one attempt; times are of one monotonic clock, in seconds."""

    now: float
    num_running: int
    warned_at: float | None = None
    told: bool = False
    """The warning was passed on."""
    joining_at: float | None = None
    """Other nodes have come late and are to take part."""
    called: bool = False
    """The ranks were told so."""
    failed_at: float | None = None
    """A rank failed that had not been warned."""
    left_at: float | None = None
    """A rank left with 75, or in any way but 0 after the notice."""
    early_at: float | None = None
    """A rank left to be continued, or died of a notice, when there was nothing to save."""
    hung_at: float | None = None
    """No rank had given a heartbeat for too long, here or on another node."""
    lost_at: float | None = None
    """Another node was lost."""
    asked: bool = False
    """Where they are was written down."""
    terminated_at: float | None = None
    killed_at: float | None = None
    kill_now: bool = False
    """A second Ctrl-C came."""


def next_step(seen: Situation, bounds: Bounds) -> Action:
    """Return the next step; called again and again until it is DONE or ABANDON."""

    def over(since: float | None, bound_s: float | None) -> bool:
        return since is not None and bound_s is not None and seen.now - since >= bound_s

    terminate_s = bounds.terminate_s if seen.lost_at is None else bounds.lost_s
    if seen.num_running == 0:
        return Action.DONE
    if seen.killed_at is not None:
        return Action.ABANDON if over(seen.killed_at, bounds.abandon_s) else Action.WAIT
    if seen.hung_at is not None and not seen.asked and not seen.kill_now:
        return Action.ASK
    if (
        seen.kill_now
        or seen.hung_at is not None
        or over(seen.terminated_at, terminate_s)
        or over(seen.warned_at, bounds.grace_s)
    ):
        return Action.KILL
    if seen.terminated_at is not None:
        return Action.WAIT
    ended = (seen.failed_at, seen.lost_at, seen.early_at)
    if any(at is not None for at in ended) or over(seen.left_at, bounds.leave_s):
        return Action.TERMINATE
    if seen.warned_at is not None and not seen.told:
        return Action.WARN
    if seen.joining_at is not None and not (seen.called or seen.told):
        return Action.REGROUP
    return Action.WAIT
