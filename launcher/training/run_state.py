"""What a run keeps in a checkpoint besides tensors, as a value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from checkpointing import JSON
from strategies import (
    IMPORTED,
    SEEDING_RULE,
    BatchPlan,
    ConfigError,
    EarlyStopping,
    EarlyStoppingState,
    Ending,
    Jump,
    LossScale,
    PlateauState,
    Progress,
    StepOutcome,
)

from ..contract.exit_codes import CONTINUE

OWN_LOOP = "own_loop"
"""Stands in the state of a checkpoint that `Resumable` has made, of a script's own loop."""


class Preempted(SystemExit):
    """Saved, and to be continued by the same command: leaves with exit code 75."""

    def __init__(self) -> None:
        super().__init__(CONTINUE)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run is; the same on every rank at every boundary."""

    step: int = 0
    """Optimizer steps completed."""
    stopper: EarlyStoppingState = field(default_factory=EarlyStoppingState)
    plateau: PlateauState = field(default_factory=PlateauState)
    scale: LossScale = field(default_factory=LossScale)
    stopped_because: str | None = None
    """What the script said when it called `job.stop()`, once the ranks have agreed on it."""
    evaluation: Mapping[str, JSON] | None = None
    """The newest value of the monitored metric: its name, mode, value and step."""
    init: str = "as-built"
    """How the parameters were filled when the run began."""
    skipped_in_a_row: int = 0
    """Steps whose gradients were not finite, since the last that was applied."""
    empty_steps: int = 0
    """Steps of the run in which nothing counted on any rank."""
    owed_evaluation: Mapping[str, JSON] | None = None
    """The record of the newest step, whose evaluation is still to be done; None: none is."""
    jumps: tuple[Jump, ...] = ()
    """Windows of data that the run has gone back before and left out."""
    exponents: Mapping[str, int] = field(default_factory=dict)
    """With exact sums: of each parameter's gradients, for the step that follows."""
    base: Mapping[str, JSON] | None = None
    """With frozen parameters: the files of `weights=` with which the run began."""
    samples: Mapping[str, JSON] = field(default_factory=dict)
    """Digests of the training data."""
    set_by_loop: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    """Of modules, the modes and plain attributes that the training loop had set."""
    asked: Mapping[str, JSON] = field(default_factory=dict)
    """What the script asks for that shapes the curve, to report what it changes."""

    def after(self, outcome: StepOutcome) -> RunState:
        """Return the state with one step more."""
        in_a_row = self.skipped_in_a_row
        if outcome.applied:
            in_a_row = 0
        elif in_a_row or not outcome.is_empty:
            in_a_row += 1  # an empty step is no trouble, and no way out of it either
        return replace(
            self,
            step=self.step + 1,
            scale=self.scale if outcome.is_empty else self.scale.after(finite=outcome.applied),
            skipped_in_a_row=in_a_row,
            empty_steps=self.empty_steps + outcome.is_empty,
            exponents=outcome.exponents or self.exponents,
        )

    def progress(
        self,
        plan: BatchPlan,
        *,
        save_due: bool = False,
        saving_since: int | None = None,
        world_size: int = 1,
        newest_step: int | None = None,
        max_skipped: int | None = None,
        goes_back: bool = False,
        owes_evaluation: bool = False,
        is_saved: bool = False,
    ) -> Progress:
        """Return what the decision at a boundary needs to know."""
        return Progress(
            step=self.step,
            total_steps=plan.total_steps,
            save_due=save_due,
            early_stop_reason=self.stopper.reason,
            stopped_because=self.stopped_because,
            saving_since=saving_since,
            world_size=world_size,
            newest_step=newest_step,
            owes_evaluation=owes_evaluation,
            is_saved=is_saved,
            is_stuck=goes_back
            or (max_skipped is not None and self.skipped_in_a_row >= max_skipped),
        )

    def to_json(
        self, plan: BatchPlan, ending: Ending | None, *, schedule: str = ""
    ) -> dict[str, JSON]:
        """Return what a checkpoint keeps; `schedule` is the schedule as text, for people."""
        return {
            "step": self.step,
            "data": {
                "epoch": plan.epoch_of(self.step),
                "position": plan.position(self.step),
                "micro_batch": plan.micro_batch,
                **({"samples": dict(self.samples)} if self.samples else {}),
                **identity(plan),
            },
            "random": {"seed": plan.seed, "rule": SEEDING_RULE, "init": self.init},
            "schedule": {"step": self.step, "total_steps": plan.total_steps, "text": schedule},
            "early_stopping": self.stopper.to_json(),
            "evaluation": self.evaluation,
            "plateau": self.plateau.to_json(),
            "loss_scale": self.scale.to_json(),
            "skipped_in_a_row": self.skipped_in_a_row,
            "empty_steps": self.empty_steps,
            **({} if (owed := self.owed_evaluation) is None else {"owed_evaluation": dict(owed)}),
            **({"exponents": dict(self.exponents)} if self.exponents else {}),
            **({"weights": dict(self.base)} if self.base else {}),
            **({"set_by_loop": dict(self.set_by_loop)} if self.set_by_loop else {}),
            **({"asked": dict(self.asked)} if self.asked else {}),
            "jumps": [{"at": jump.at, "length": jump.length} for jump in self.jumps],
            "stopped_because": self.stopped_because,
            "ending": ending.value if ending is not None and ending.is_final else None,
        }

    def restored(self, saved: Mapping[str, Any], plan: BatchPlan, *, where: object) -> RunState:
        """Return the state that a checkpoint holds, as seen by this start's plan and precision.

        Raises:
            ConfigError: the checkpoint's steps mean other samples than this plan's.
        """
        if IMPORTED in saved:
            return self  # Another program's weights: this run's own trajectory begins with them.
        if OWN_LOOP in saved:
            raise ConfigError(
                f"the run in {where} was trained in a loop of the script's own, with Resumable: "
                "its steps mean other samples than those of run.prepare. Use another --run-dir."
            )
        for name, mine in identity(plan).items():
            if saved["data"][name] != mine:
                raise ConfigError(
                    f"the run in {where} was made with {name}={saved['data'][name]}, and the "
                    f"script now has {name}={mine}: its steps would mean other samples. "
                    "Use the same, or another --run-dir."
                )
        began_with = saved["random"].get("init", "as-built")
        if began_with != self.init:
            raise ConfigError(
                f'the run in {where} began with init="{began_with}", and the script now has '
                f'init="{self.init}". Use the same, or another --run-dir.'
            )
        return RunState(
            init=self.init,
            step=saved["step"],
            stopper=EarlyStoppingState.from_json(saved["early_stopping"]),
            evaluation=saved.get("evaluation"),
            plateau=PlateauState.from_json(saved.get("plateau", {})),
            scale=self.scale.restored(saved["loss_scale"]),
            stopped_because=saved["stopped_because"],
            skipped_in_a_row=saved["skipped_in_a_row"],
            empty_steps=saved.get("empty_steps", 0),
            owed_evaluation=saved.get("owed_evaluation"),
            jumps=tuple(Jump(**jump) for jump in saved.get("jumps", ())),
            exponents=saved.get("exponents", {}),
            base=saved.get("weights"),
            samples=saved["data"].get("samples", {}),
            set_by_loop=saved.get("set_by_loop", {}),
            asked=saved.get("asked", {}),
        )


def evaluation_of(rule: EarlyStopping, value: float, step: int) -> dict[str, JSON] | None:
    """Return a monitored value as a checkpoint keeps it; None where it is not a number."""
    if not math.isfinite(value):
        return None
    return {"metric": rule.monitor, "mode": rule.mode, "value": value, "step": step}


def identity(plan: BatchPlan) -> dict[str, JSON]:
    """Return what must not change inside a run: a step would mean other samples."""
    return {
        "num_samples": plan.num_samples,
        "global_batch": plan.global_batch,
        "seed": plan.seed,
    }


def common_to_ranks(plan: BatchPlan, **more: JSON) -> dict[str, JSON]:
    """Return what every rank must have been given alike: of the plan, and more."""
    return {
        **identity(plan),
        "micro_batch": plan.micro_batch,
        "total_steps": plan.total_steps,
        **more,
    }


def plan_changes(saved: Mapping[str, Any], plan: BatchPlan, schedule: str) -> list[str]:
    """Return a sentence for each thing that the script may change and has changed."""
    if IMPORTED in saved:
        return []
    before_and_now = {
        "micro_batch": (saved["data"]["micro_batch"], plan.micro_batch),
        "total_steps": (saved["schedule"]["total_steps"], plan.total_steps),
        "schedule": (saved["schedule"].get("text", schedule), schedule),
    }
    return [f"{name}: {old} -> {new}" for name, (old, new) in before_and_now.items() if old != new]
