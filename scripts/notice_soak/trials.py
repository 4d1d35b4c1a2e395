"""What is tried: a pure function of the seed and a trial's number."""

import random
from dataclasses import dataclass
from itertools import product

PHASES = (
    "start",
    "import",
    "build",
    "restore",
    "compile",
    "step",
    "accumulation",
    "data wait",
    "evaluation",
    "save in flight",
    "restart",
    "export",
    "test",
    "end",
)
"""Where the run is when the notice comes."""
STRATEGIES = ("ddp", "fsdp", "zero2")
TARGETS = ("launcher", "rank", "tree")
"""Who is told: the launcher, one rank, or every process of the run."""
SIGNALS = ("SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2")
RANKS = 2
EVALUATIONS = (4, 8, 12, 16, 20)
"""The steps after which the undisturbed run evaluates; the last of them stops it."""
IN_A_STEP = ("step", "accumulation", "data wait")
"""Phases in which each step takes as long as the trial says, and the grace grows with it."""
BROKEN_OFF = ("import", "build", "restore", "compile", "evaluation", "export", "test")
"""Phases that may last longer than the grace: there is nothing to wait for."""
STARTING = ("start", "import", "restart")
"""Phases in which a process starts, which no grace can be about."""
PACE_S = 0.05
"""How long a step takes where the notice is to come between its saves."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the command is started."""

    strategy: str = "ddp"
    workers: int = 0
    start: str = "warm"
    ranks: int = RANKS

    def options(self) -> list[str]:
        """Return the launcher's options."""
        cold = ["--cold"] if self.start == "cold" else []
        return [*cold, "--nproc-per-node", str(self.ranks), "--strategy", self.strategy]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One notice at one moment to somebody."""

    number: int
    phase: str
    setting: Setting
    target: str
    rank: int
    """The rank that is told, where the target is one."""
    who: int
    """The rank that is slow in this phase; -1: all of them."""
    at: int
    """The step, 0-based, or the number of steps before the evaluation, in which it happens."""
    outlasts: bool
    """The phase lasts longer than the grace."""
    share: float
    """When the notice comes: the share of the time that there is for it."""
    signals: tuple[str, ...]
    compiles: bool
    """torch.compile really compiles the blocks."""
    then: Setting
    """How the run goes on."""

    def hold_s(self, grace_s: float) -> float:
        """Return how long the phase lasts."""
        if self.phase in IN_A_STEP:
            return 1.5 if self.outlasts else 0.4
        if self.phase in BROKEN_OFF:
            return grace_s + 2.0 if self.outlasts else 0.8
        return PACE_S

    def step_s(self) -> float:
        """Return how much longer than else a step takes in this trial."""
        return self.hold_s(0.0) if self.phase in IN_A_STEP else 0.0

    def delay_s(self, grace_s: float) -> float:
        """Return when the notice comes, from the beginning of the phase on."""
        restart_s = 0.8 if self.target == "rank" else 2.5  # from the new rank's start on
        longest_s = {"start": 1.0, "save in flight": 0.3, "restart": restart_s, "end": 0.8}
        return self.share * longest_s.get(self.phase, min(self.hold_s(grace_s), 1.5))

    def describe(self) -> str:
        """Return all of it as one line."""
        setting, then = self.setting, self.then
        slow = "all ranks" if self.who < 0 else f"rank {self.who}"
        words = [
            f"trial {self.number}: {self.phase} ({slow}, at {self.at}",
            f"{'long' if self.outlasts else 'short'}{', torch.compile' if self.compiles else ''}),",
            f"{setting.strategy}, workers {setting.workers}, {setting.start};",
            f"{'+'.join(self.signals)} to {self.target}",
            f"{self.rank} at {self.share:.3f};"
            if self.target == "rank"
            else f"at {self.share:.3f};",
            f"then {then.strategy} on {then.ranks}",
        ]
        return " ".join(words)


def trial(seed: int, number: int) -> Trial:
    """Return a trial. Each phase comes in turn, and each goes through all its combinations."""
    turn, index = divmod(number, len(PHASES))
    phase = PHASES[index]
    combinations = list(product(STRATEGIES, (0, 2), ("warm", "cold"), TARGETS))
    round_number, place = divmod(turn, len(combinations))
    random.Random(f"{seed} {phase} {round_number}").shuffle(combinations)
    strategy, workers, start, target = combinations[place]
    rng = random.Random(f"{seed} {number}")
    setting = Setting(strategy=strategy, workers=workers, start=start)
    return Trial(
        number=number,
        phase=phase,
        setting=setting,
        target=target,
        rank=rng.randrange(RANKS),
        who=rng.choice((-1, 0) if phase == "export" else (-1, 0, 1)),
        at=rng.choice(EVALUATIONS) if phase in ("evaluation", "test") else rng.randrange(3, 15),
        outlasts=rng.random() < 0.5,
        share=rng.random(),
        signals=_signals(rng),
        compiles=phase == "compile" and strategy != "zero2" and rng.random() < 0.2,
        then=_then(rng, setting),
    )


def trials(seed: int, count: int, phases: tuple[str, ...] = PHASES, first: int = 0) -> list[Trial]:
    """Return so many trials, from a number on, that are about one of the phases."""
    found: list[Trial] = []
    number = first
    while len(found) < count:
        if PHASES[number % len(PHASES)] in phases:
            found.append(trial(seed, number))
        number += 1
    return found


def _signals(rng: random.Random) -> tuple[str, ...]:
    if rng.random() < 0.6:
        return (rng.choice(SIGNALS),)
    return (*rng.sample(SIGNALS, len(SIGNALS)), *rng.sample(SIGNALS, len(SIGNALS)))


def _then(rng: random.Random, setting: Setting) -> Setting:
    """Return how the run goes on: mostly as before."""
    if rng.random() < 0.75:
        return setting
    return Setting(
        strategy=rng.choice(STRATEGIES), workers=setting.workers, ranks=rng.choice((1, 2, 3))
    )
