"""What is known about an attempt once all its ranks are gone."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...contract.environment import RankFiles
from ...contract.exit_codes import RankEnd, first_failure
from ...contract.files.error_file import read_error
from ...contract.files.heartbeat import Beat, read_beat
from ...contract.files.run_dir_file import told_folder
from ...contract.preemption import signal_name
from ..output.rank_output import RankOutput
from .evidence import exception_of


@dataclass(frozen=True, kw_only=True)
class AttemptEnd:
    """How an attempt ended, and where to read more about it."""

    outcomes: tuple[RankEnd, ...]
    code: int
    files: Mapping[int, RankFiles]
    """Of each rank: it may have left its reason and its last heartbeat."""
    output: RankOutput
    lived_s: float
    joined: bool
    """The ranks' process group put something into the store."""
    hung: bool = False
    """The launcher ended it because no rank made progress."""
    num_oom_kills: int = 0
    """Processes which the kernel's OOM killer ended meanwhile, in this cgroup."""
    nothing_begun: bool = False
    """The script saves by itself, and no rank has finished a step: there was nothing to save."""

    failed_before_notice: bool = False
    """A rank had failed before any preemption notice, so that the ranks would be started again."""

    def beats(self) -> tuple[Beat, ...]:
        """Return the last signs of life of the ranks that gave one."""
        found = (read_beat(files.heartbeat) for files in self.files.values())
        return tuple(beat for beat in found if beat is not None)

    def run_dir(self) -> Path | None:
        """Return where the run is kept, if a rank has said so."""
        folders = (told_folder(files.folder) for _, files in sorted(self.files.items()))
        return next((folder for folder in folders if folder is not None), None)

    def step(self) -> int | None:
        """Return the last step which any rank has finished."""
        steps = [beat.step for beat in self.beats() if beat.step is not None]
        return max(steps, default=None)

    def error(self) -> str | None:
        """Return in one line what ended the rank that failed first; None if none did."""
        first = first_failure(self.outcomes)
        if first is None:
            return "no rank made progress" if self.hung else None
        if (words := words_of(self.files[first.rank], self.output, first.rank)) is not None:
            return words
        status = -signal.SIGKILL if first.status is None else first.status
        return f"exit code {status}" if status >= 0 else signal_name(-status)


def words_of(files: RankFiles, output: RankOutput, rank: int) -> str | None:
    """Return in one line what a rank failed with, in its own words; None: it left none."""
    record = read_error(files.error)
    if record is not None:
        return record.message.splitlines()[0]
    return exception_of(output.errors(rank))


def failed_before(outcomes: Sequence[RankEnd], warned_at_s: float | None) -> bool:
    """Return whether a rank had failed before any notice was seen.

    Args:
        outcomes: Of all ranks of this node.
        warned_at_s: When one was seen while ranks ran; None: none was, and one that comes later,
            while the attempt is cleared up, comes after the failure.
    """
    first = first_failure(outcomes)
    failure = None if first is None else first.failure()
    return failure is not None and (warned_at_s is None or failure.latest_s < warned_at_s)
