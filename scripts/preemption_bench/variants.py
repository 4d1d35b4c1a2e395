"""What is measured: each library undisturbed and preempted, and how it is started again."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from preemption_bench.processes import Attempt, BenchError, StepRecords, run_attempt

HERE = Path(__file__).parent
EXTRA_STARTS = 2
"""More starts than preemptions; a training that has not ended then never will."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One library in one way."""

    family: str
    title: str
    how: str | None
    """`notice`, `kill`, or None: undisturbed."""
    every: str
    just_in_time: bool = False

    @property
    def name(self) -> str:
        return f"{self.family}, {self.title}"

    def command(self, binary: Path, folder: Path, steps: int, width: int) -> list[str]:
        """Return the same command for all attempts of a training.

        Args:
            binary: relaunch, or the torchrun of the environment that the library is in.
        """
        words = [str(binary), "--nproc-per-node=2"]
        if self.family == "relaunch":
            words += ["--strategy=ddp", f"--run-dir={folder / 'run'}"]
        else:
            words += ["--standalone"]
        words += [str(HERE / f"{self.family.lower()}_run.py"), f"--folder={folder}"]
        words += [f"--steps={steps}", f"--width={width}", f"--save-every={self.every}"]
        return words + ["--just-in-time"] * self.just_in_time


def variants(every: int) -> tuple[Variant, ...]:
    """Return all of them, for a checkpoint every so many steps."""
    n, by_steps = str(every), f"every {every}"
    ours: dict[str, str] = {"family": "relaunch"}
    hf: dict[str, str] = {"family": "Trainer", "every": n}
    pl: dict[str, str] = {"family": "Lightning", "every": n}
    return (
        Variant(title="undisturbed", how=None, every=n, **ours),
        Variant(title=f"notice, {by_steps}", how="notice", every=n, **ours),
        Variant(title=f"killed, {by_steps}", how="kill", every=n, **ours),
        Variant(title='killed, "auto"', how="kill", every="auto", **ours),
        Variant(title="undisturbed", how=None, **hf),
        Variant(title=f"notice, {by_steps}", how="notice", **hf),
        Variant(title="notice, just in time", how="notice", just_in_time=True, **hf),
        Variant(title="undisturbed", how=None, **pl),
        Variant(title=f"notice, {by_steps}", how="notice", **pl),
        Variant(title="notice, saved on exception", how="notice", just_in_time=True, **pl),
    )


@dataclass(kw_only=True)
class Training:
    """One training of one variant, from its first start to its end."""

    variant: Variant
    binary: Path
    folder: Path
    steps: int
    width: int
    """Of the network's inputs."""
    preempt_at: Sequence[int]
    attempts: list[Attempt] = field(default_factory=list)

    def go_on(self) -> Iterator[Attempt]:
        """Yield each attempt when it has ended.

        Raises:
            BenchError: It does not come to its end.
        """
        self.folder.mkdir()
        command = self.variant.command(self.binary, self.folder, self.steps, self.width)
        waiting = list(self.preempt_at) if self.variant.how else []
        while not (self.folder / "final.pt").exists():
            number = len(self.attempts)
            if number > len(self.preempt_at) + EXTRA_STARTS:
                raise BenchError(f"{self.variant.name} has not ended after {number} starts")
            attempt = run_attempt(
                command,
                self.folder,
                mark=uuid.uuid4().hex,
                number=number,
                preempt_at=waiting[0] if waiting else None,
                how=self.variant.how or "",
            )
            self.attempts.append(attempt)
            if attempt.preempted:
                waiting.pop(0)
            elif not (self.folder / "final.pt").exists():
                raise BenchError(f"{self.variant.name}: {self.end_of_log(number)}")
            yield attempt

    def end_of_log(self, number: int) -> str:
        text = (self.folder / f"attempt-{number}.log").read_text(errors="replace")
        return f"start {number} ended with {self.attempts[number].code}:\n{text[-2000:]}"

    @property
    def wasted(self) -> int:
        """Steps that were taken more than once."""
        return StepRecords(path=self.folder / "steps").count() - self.steps

    @property
    def seconds(self) -> float:
        """From the first command to the last end, without what lay between two attempts."""
        return sum(attempt.seconds for attempt in self.attempts)
