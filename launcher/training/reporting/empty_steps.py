"""Steps in which nothing counts on any rank, such as those whose labels are all masked. Pure.

There is no mean to take the gradient of, so weights, moments, averages and the loss scale stay what
they are. The step is counted: its data is behind the run, and the learning rate is a function of
the step. BatchNorm's statistics have moved with the forward, as they do in every step.
"""

from __future__ import annotations

from strategies import ConfigError

LOOKED_AT = 10
"""Steps from the start after which a run in which nothing has ever counted is a mistake."""


def refuse_if_nothing_ever_counts(empty_steps: int, step: int) -> None:
    """Refuse to continue forever without training anything.

    Args:
        empty_steps: of the run, so far.
        step: optimizer steps completed, these among them.

    Raises:
        ConfigError: nothing has counted in the first steps, and so nothing was trained.
    """
    if empty_steps == step == LOOKED_AT:
        raise ConfigError(
            f"in the first {step} steps nothing counted on any rank, so nothing was trained. Pass "
            "step.backward the number of samples (or tokens) in the sum as count=, and look at how "
            "the labels are masked."
        )


def empty_steps_sentence(empty_steps: int, step: int) -> str | None:
    """Return the warning about an empty step; None for most of many.

    Args:
        empty_steps: of the run, with this one.
        step: 0-based number of this one.
    """
    if empty_steps & (empty_steps - 1):
        return None  # the 1st, 2nd, 4th, 8th ... are reported, and all are in metrics.jsonl
    so_far = "the first such step" if empty_steps == 1 else f"{empty_steps} such steps so far"
    return (
        f"step {step}: nothing counted on any rank (count=0 in all its micro-batches; are all "
        "labels masked?). It changes no weight; the step and the learning rate's schedule move on; "
        f"{so_far}."
    )
