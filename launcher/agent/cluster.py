"""Where a start of the command takes place: on a plain machine, or in a job of a batch system."""

from typing import Protocol

from ..contract.files.end_time import ToldEnd
from ..contract.launcher_signals import SignalInbox
from ..contract.preemption import PreemptionNotice
from ..plan.given_options import Words
from ..plan.launch_plan import LaunchPlan

_BY_HAND = ("--standalone", "--node-rank", "--rdzv-endpoint", "--rdzv-backend")


def is_by_hand(words: Words) -> bool:
    """Return whether the words say themselves how the nodes meet; then a scheduler adds nothing."""
    return any(name in words.given for name in _BY_HAND)


def by_hand_word(words: Words) -> str:
    """Return the option by which the words say how the nodes meet."""
    return next(words.given[name].spelled for name in _BY_HAND if name in words.given)


class PreemptionCause(Protocol):
    """Finds, without blocking, the cause of a notice and when the ranks will be killed.

    Before a warning it looks now and then whether the end of the job's time has moved.
    """

    def ask(self, signum: int) -> None:
        """Begin; called once, at the first preemption notice."""

    def answer(self) -> PreemptionNotice | None:
        """Return what was found out, once; None before and after."""

    def end_time(self) -> tuple[ToldEnd, str] | None:
        """Return an end that was asked for again, once, and what to say about it; None: no news."""


class NoAdvice:
    """No source, or one that answers at once."""

    _found: PreemptionNotice | None = None

    def ask(self, signum: int) -> None:
        """See PreemptionCause."""

    def answer(self) -> PreemptionNotice | None:
        """See PreemptionCause."""
        found, self._found = self._found, None
        return found

    def end_time(self) -> tuple[ToldEnd, str] | None:
        """See PreemptionCause."""
        return None


class ClusterEnvironment:
    """A plain machine: nothing is added to what was asked."""

    @property
    def starts_agents(self) -> bool:
        """Whether this process starts agents, perhaps on other machines, and no ranks itself."""
        return False

    @property
    def in_container(self) -> bool:
        """Whether agents are started in a container, where other packages are installed."""
        return False

    def supply(self, words: Words) -> Words:
        """Return the options with those that follow from the environment; raises UsageError."""
        return words

    def adjust(self, plan: LaunchPlan) -> LaunchPlan:
        """Return an agent's plan with what is known here: limits, and restarts used before."""
        return plan

    def advice(self) -> PreemptionCause:
        """Return the source for the cause of a notice."""
        return NoAdvice()

    def run_agents(self, plan: LaunchPlan, inbox: SignalInbox) -> int | None:
        """Start the agents of all nodes and return their exit code.

        None: this process is an agent itself, as on a plain machine.
        """
        return None

    def describe(self) -> tuple[str, ...]:
        """Return lines for --dry-run."""
        return ()

    def conclude(self, code: int, plan: LaunchPlan, inbox: SignalInbox) -> int:
        """Return the exit code after the last rank has left an agent."""
        return code
