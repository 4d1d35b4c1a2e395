"""What was asked on the command line, checked by itself; nothing here looks at the machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from strategies.parallel.table import STRATEGY_NAMES
from strategies.precision_names import PRECISION_NAMES

from .errors import UsageError

NPROC_WORDS = ("auto", "gpu", "cpu")


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """The options of `relaunch`; raises UsageError where one cannot mean anything."""

    script: str
    script_args: tuple[str, ...] = ()
    nproc_per_node: str | int | None = None
    """A number, or one of NPROC_WORDS; None: one rank per visible GPU, one where there is none."""
    strategy: str | None = None
    precision: str | None = None
    run_dir: Path | None = None
    log_dir: Path | None = None
    master_addr: str | None = None
    master_port: int | None = None
    max_restarts: int = 0
    grace_s: float | None = None
    """Seconds from a warning to SIGKILL; None: the ranks take the time they need."""
    cold: bool = False
    """Start every rank as a Python of its own."""
    preload: tuple[str, ...] = ()
    """Modules that the warm server imports before it forks the ranks."""

    def __post_init__(self) -> None:
        _check_choice("strategy", self.strategy, STRATEGY_NAMES)
        _check_choice("precision", self.precision, PRECISION_NAMES)
        if isinstance(self.nproc_per_node, int) and self.nproc_per_node < 1:
            raise UsageError(_bad_nproc(str(self.nproc_per_node)))
        if self.master_port is not None and not 0 <= self.master_port <= 65535:
            raise UsageError(
                f"--master-port {self.master_port} is no port; pass 1 to 65535, or leave it out "
                "for a free one."
            )
        if self.max_restarts < 0:
            raise UsageError(f"--max-restarts {self.max_restarts} is below 0.")
        if self.grace_s is not None and not 0 <= self.grace_s < float("inf"):
            raise UsageError(f"--grace {self.grace_s:g} is no number of seconds from 0 on.")
        if self.cold and self.preload:
            raise UsageError(
                f"--cold and --preload {','.join(self.preload)} exclude each other: a cold rank "
                "imports everything by itself. Leave one of them out."
            )


def parse_nproc(text: str | None) -> str | int | None:
    """Read the value of --nproc-per-node.

    Raises:
        UsageError: It is neither a number from 1 on nor one of NPROC_WORDS.
    """
    if text is None or text in NPROC_WORDS:
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(_bad_nproc(text)) from None


def parse_int(option: str, text: str | None) -> int | None:
    """Read a whole number; raises UsageError naming the option."""
    try:
        return None if text is None else int(text)
    except ValueError:
        raise UsageError(f"{option} {text} is not a whole number.") from None


def parse_seconds(option: str, text: str | None) -> float | None:
    """Read a number of seconds; raises UsageError naming the option."""
    try:
        return None if text is None else float(text)
    except ValueError:
        raise UsageError(f"{option} {text} is not a number of seconds.") from None


def parse_names(text: str | None) -> tuple[str, ...]:
    """Read names with commas between them."""
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))


def _bad_nproc(text: str) -> str:
    return f"--nproc-per-node {text} is neither a number from 1 on nor one of auto, gpu, cpu."


def _check_choice(kind: str, given: str | None, valid: Sequence[str]) -> None:
    if given is not None and given not in valid:
        choices = ", ".join(sorted(valid))
        raise UsageError(f'unknown {kind} "{given}"; choose from {choices}.')
