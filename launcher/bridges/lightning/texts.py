"""Messages about the start of a Lightning Trainer; pure."""

from __future__ import annotations

from collections.abc import Sequence

from ...contract.environment import RankEnvironment

_HIDES_ORDER = "DistributedSamplerWrapper"
"""Lightning's, around a sampler that draws its order and cannot say where it is."""
_REMEDY = (
    "Use launcher.bridges.ResumableLoader, with a DataLoader's arguments (dataset, batch_size, "
    "shuffle, num_workers, ...), or a loader with state_dict and load_state_dict over a "
    "DistributedSampler."
)


def loader_text(loaders: Sequence[object]) -> str | None:
    """Return why the training data cannot be resumed at the sample; None: it can.

    Args:
        loaders: of the training, each as it goes over the ranks.
    """
    for loader in loaders:
        methods = ("state_dict", "load_state_dict")
        kind = type(loader).__name__
        if not all(callable(getattr(loader, name, None)) for name in methods):
            return (
                f"the training data comes from a {kind}, which cannot resume at the sample: after "
                f"a preemption Lightning would train on other data. {_REMEDY}"
            )
        inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
        if type(inner).__name__ == _HIDES_ORDER:
            return (
                f"Lightning has put its own sampler in front of that of the {kind}, whose order "
                f"is then in no checkpoint: a resume would train on other data. {_REMEDY}"
            )
    return None


def world_text(of_trainer: int, environment: RankEnvironment) -> str | None:
    """Return why a Trainer does not use the ranks that were started; None: it does.

    Args:
        of_trainer: its number of ranks.
        environment: of this rank.
    """
    if of_trainer == environment.world_size:
        return None
    local = environment.local_world_size
    num_nodes = environment.world_size // local
    return (
        f"{environment.world_size} ranks were started, and the Trainer is of {of_trainer}: each "
        f"would train alone. Pass Trainer(devices={local}, num_nodes={num_nodes}, "
        f'strategy="ddp").'
    )


def ranks_text(before: object, now: int) -> str | None:
    """Return what a resume does not promise; None: random numbers are those of before.

    Args:
        before: the number of ranks in the checkpoint; None: it was written without the callback.
        now: the number of ranks of this start.
    """
    if before == now:
        return None
    if before is None:
        return (
            "the checkpoint was written without RelaunchLightning: random numbers (dropout, "
            "augmentation) are not those of the run before."
        )
    return (
        f"the checkpoint is of {before} ranks, and {now} resume: model, optimizer and schedule "
        "resume; random numbers and each rank's data are others, and so is the curve."
    )
