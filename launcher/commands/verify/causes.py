"""From what was seen of two runs that part to the usual cause, with its remedy. Pure.

Each cause has a fingerprint: where in the chain data, loss, gradient, update the two runs part
first, and what else parts with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Cause(Enum):
    """A usual mistake: what it is, and what to do."""

    PER_DEVICE_BATCH = (
        "a per-device batch: a step has {samples} samples as {first}, and {other_samples} as "
        "{other}",
        "Pass run.prepare the same global_batch on any number of ranks; micro_batch is what one "
        "rank computes at once.",
    )
    RATE_BY_RANKS = (
        "a learning rate that depends on the number of ranks: {rate} and {other_rate}",
        "global_batch does not change with the ranks, so leave the rate as it is.",
    )
    DATA_BY_RANK = (
        "a data set whose content or order differs by rank: the same indices give other samples",
        "Build the same data set on every rank, and leave it whole: run.prepare gives each rank "
        "its part. Sort file names, and do not look at RANK.",
    )
    HASH_ORDER = (
        "a data set in the order of a set: Python's hash order changes with every start (it is the "
        "same with PYTHONHASHSEED=0)",
        "Sort what comes from a set or from os.listdir before it becomes the data set.",
    )
    AUGMENTATION = (
        "an augmentation that draws from a generator of its own, counts what it has read or "
        "depends on the loader worker: a sample differs when it is read again, or by another "
        "process",
        "Draw from torch's, numpy's or random's global functions in __getitem__: they are seeded "
        "by the sample. Let a sample depend on its index alone.",
    )
    TIME_SEED = (
        "a seed or a draw that changes with every start (the time, os.urandom, a generator without "
        "a seed): the same run twice is not the same",
        "Pass Run.start(seed=...), and draw from torch's, numpy's or random's global functions; "
        "give a generator of your own a fixed seed.",
    )
    NONDETERMINISTIC_KERNELS = (
        "nondeterministic kernels: the same run twice is not the same, and it is with "
        "torch.use_deterministic_algorithms(True)",
        "Call torch.use_deterministic_algorithms(True) where the curve must not change, or accept "
        "the difference with --tolerance.",
    )
    UNKNOWN_NONDETERMINISM = (
        "something that changes from start to start after the loss: the same run twice is not the "
        "same, with equal data and an equal first loss",
        "Look for atomic additions on a GPU (torch.use_deterministic_algorithms(True) names them), "
        "and for threads of your own that change weights.",
    )
    WEIGHTS_BY_RANK = (
        "a model that is built differently: the weights before the first step are not the same",
        "Build the model from torch's global random numbers, which run.prepare seeds; no "
        "torch.manual_seed(rank), and no generator that has run on.",
    )
    MOVED_BUFFER = (
        "a buffer that the forward updates: it depends on which micro-batches a rank has computed",
        "Average what the forward counts over the ranks and micro-batches outside of the forward, "
        "or make it a statistic of torch's BatchNorm, which a run keeps equal.",
    )
    RANDOM_OUTSIDE = (
        "random numbers outside the micro-batch, or state that is carried from call to call (a "
        "generator of its own, a counter): the first micro-batch gives the same loss, a later one "
        "does not",
        "Draw from torch's, numpy's or random's global functions inside `for batch in step`; a "
        "generator or counter of your own depends on what a rank has computed before.",
    )
    LOSS_BY_RANK = (
        "a loss that depends on the rank or on the number of ranks: the same samples give another",
        "Pass step.backward the sum of the losses and their number, without world_size and rank.",
    )
    COUNT_BY_RANK = (
        "a mean of means: count= is not the number of samples",
        "Pass step.backward the sum over the samples and count=their number; the mean over all "
        "ranks is made from them.",
    )
    OWN_COLLECTIVE = (
        "a collective of the script's own between forward and backward",
        "Leave sums over ranks to step.backward and step.evaluate. A batch that is larger than one "
        "rank's (contrastive losses) needs the same number of ranks in every start.",
    )
    AROUND_WRAPPER = (
        "a part of the model that is called around its wrapper, so that its gradients are not "
        "summed over the ranks",
        "Call job.model(...), its methods or its parts; keep no reference to the model that the "
        "function model= has returned.",
    )
    DIVIDED_GRADIENT = (
        "a mean of means: the losses are equal, and the gradients differ by the factor {factor:g}",
        "Leave out the division by world_size, and hooks that scale gradients: the mean over all "
        "ranks is made exactly once.",
    )
    OTHER_GRADIENT = (
        "gradients that are not the sum over the ranks: the losses are equal, and the norms of the "
        "gradients are not (an own collective, a hook, or a part of the model called around its "
        "wrapper)",
        "Call job.model(...) alone, and leave collectives out of the loop and of hooks.",
    )
    NON_ELEMENTWISE = (
        "a non-elementwise optimizer: losses and gradients are equal, and the update differs where "
        "parameters are sharded and not under ddp",
        "Use --strategy ddp with it, or an elementwise optimizer (SGD, Adam, AdamW, ...).",
    )
    UPDATE_BESIDE = (
        "weights that change beside the optimizer, or an update with state of its own: losses and "
        "gradients are equal, and the weights after the step are not",
        "Change weights in the optimizer or in the model's forward alone, and the same on every "
        "rank.",
    )
    WEIGHTS_AT_SAVE = (
        "weights that were exchanged at the save (a moving average swapped in, a clamp): the "
        "checkpoint is not what the undisturbed run has at that step",
        "Use run.prepare(ema=EMA()) for a moving average, and leave weights alone after a step.",
    )
    STATE_OUTSIDE = (
        "state in the script's own variables (a counter, a scheduler, a generator, a moving "
        "average), which a resume resets: loss or update part after it",
        "Pass it as run.prepare(objects={...}) with state() and restore(), or compute it from "
        "step.number; for learning rates use schedule=.",
    )
    PATIENCE_OUTSIDE = (
        "a decision to stop that is counted in the script's own variables: the undisturbed run "
        "ends after step {end}, and the resumed one after step {other_end}",
        "Use stop=EarlyStopping(...), or keep the count in run.prepare(objects={...}).",
    )
    DATA_AFTER_RESUME = (
        "data that does not depend on the position alone: after a resume the same micro-batch "
        "holds other samples",
        "Let __getitem__ depend on its index alone, and draw from torch's, numpy's or random's "
        "global functions.",
    )
    NOTICE_NOT_TAKEN = (
        "a preemption notice that is not taken: the run ended with code {code} instead of 75",
        "Leave SIGTERM to relaunch, in the script and in loader workers (no signal.signal, no "
        "sys.exit in a handler).",
    )
    FILE_BY_ALL_RANKS = (
        "a file that several ranks write: {file}",
        "Write it on one rank: `if run.ranks.is_coordinator:`.",
    )
    UNKNOWN = (
        "no usual cause fits",
        "Compare the checkpoints with relaunch checkpoint diff, in the folder of --work-dir.",
    )

    @property
    def what(self) -> str:
        """What it is; with names in braces."""
        return str(self.value[0])

    @property
    def remedy(self) -> str:
        """What to do."""
        return str(self.value[1])


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of two runs where they first part. None: not known; False: equal.

    "At the place": in the first step at which anything differs.
    """

    repeat_differs: bool = False
    """The first run twice, with the same settings, is not the same."""
    repeat_differs_hashed: bool | None = None
    """The same with a fixed order of sets; None: not tried."""
    repeat_differs_deterministic: bool | None = None
    """The same with deterministic kernels; None: not tried."""
    repeat_data_differs: bool = False
    repeat_weights_differ: bool = False
    repeat_loss_differs: bool = False
    """At the first micro-batch."""
    samples_differ: bool = False
    """The numbers of samples in the first step."""
    rate_differs: bool = False
    probe_differs_by_rank: bool = False
    """Ranks of one run read other samples at the same indices, before the first step."""
    reads_differ: bool = False
    """Reading a sample again gives another."""
    data_differs: bool = False
    """A micro-batch holds something else, at the place."""
    weights_differ: bool = False
    """Before the first step."""
    counts_differ: bool = False
    loss_differs: bool = False
    """Of any micro-batch at the place."""
    first_loss_differs: bool = False
    """Of the first micro-batch that a rank computes at the place."""
    buffers_differ: bool = False
    """After the step at the place."""
    weights_differ_after: bool = False
    """Weights, after the step at the place."""
    gradient_factor: float | None = None
    """Norm of the gradient at the place over the other run's; None: not known."""
    is_sharded: bool = False
    ddp_is_equal: bool = False
    """The same ranks under ddp do not part from the first run."""
    warned_of_collective: bool = False
    warned_of_wrapper: bool = False
    ranks: int = 1
    """Of the other run."""
    is_resume: bool = False
    """The other run was interrupted and resumed."""
    notice_code: int = 75
    """How a run with a notice has ended."""
    differs_at_save: bool = False
    """The checkpoint of the notice is not the undisturbed run's of that step."""
    ends_differ: bool = False
    """The steps after which the two ended."""
    num_writers: int = 0
    """Ranks that wrote one file."""


_CLOSE = 1e-4
"""Of factors: rounding in the norm of a gradient is far smaller."""


def cause_of(seen: Seen) -> Cause:
    """Return the usual cause that fits best. Pure."""
    for look in (_of_notice, _of_repeat, _of_data, _of_resume, _of_loss, _of_update):
        found = look(seen)
        if found is not None:
            return found
    return Cause.FILE_BY_ALL_RANKS if seen.num_writers > 1 else Cause.UNKNOWN


def _of_notice(seen: Seen) -> Cause | None:
    return Cause.NOTICE_NOT_TAKEN if seen.is_resume and seen.notice_code != 75 else None


def _of_repeat(seen: Seen) -> Cause | None:
    if not seen.repeat_differs:
        return None
    if seen.repeat_differs_hashed is False:
        return Cause.HASH_ORDER
    if seen.repeat_data_differs or seen.repeat_weights_differ:
        return Cause.TIME_SEED
    if seen.repeat_differs_deterministic is False:
        return Cause.NONDETERMINISTIC_KERNELS
    return Cause.TIME_SEED if seen.repeat_loss_differs else Cause.UNKNOWN_NONDETERMINISM


def _of_data(seen: Seen) -> Cause | None:
    if seen.samples_differ:
        return Cause.PER_DEVICE_BATCH
    if seen.reads_differ:
        return Cause.AUGMENTATION
    if seen.probe_differs_by_rank:
        return Cause.DATA_BY_RANK
    if seen.data_differs:
        return Cause.DATA_AFTER_RESUME if seen.is_resume else Cause.AUGMENTATION
    return Cause.RATE_BY_RANKS if seen.rate_differs and not seen.is_resume else None


def _of_resume(seen: Seen) -> Cause | None:
    if not seen.is_resume:
        return None
    if seen.differs_at_save:
        return Cause.WEIGHTS_AT_SAVE
    if seen.loss_differs or seen.weights_differ_after or seen.buffers_differ or seen.rate_differs:
        return Cause.STATE_OUTSIDE
    return Cause.PATIENCE_OUTSIDE if seen.ends_differ else None


def _of_loss(seen: Seen) -> Cause | None:
    if seen.weights_differ:
        return Cause.WEIGHTS_BY_RANK
    if seen.warned_of_collective:
        return Cause.OWN_COLLECTIVE
    if seen.counts_differ:
        return Cause.COUNT_BY_RANK
    if not seen.loss_differs:
        return None
    if seen.first_loss_differs:
        return Cause.LOSS_BY_RANK
    return Cause.MOVED_BUFFER if seen.buffers_differ else Cause.RANDOM_OUTSIDE


def _of_update(seen: Seen) -> Cause | None:
    if seen.warned_of_wrapper:
        return Cause.AROUND_WRAPPER
    factor = seen.gradient_factor
    if factor is not None and abs(factor - 1) > _CLOSE:
        by_ranks = (float(seen.ranks), 1 / seen.ranks)
        is_divided = any(abs(factor / one - 1) < _CLOSE for one in by_ranks)
        return Cause.DIVIDED_GRADIENT if is_divided else Cause.OTHER_GRADIENT
    if seen.weights_differ_after:
        sharded_alone = seen.is_sharded and seen.ddp_is_equal
        return Cause.NON_ELEMENTWISE if sharded_alone else Cause.UPDATE_BESIDE
    return Cause.MOVED_BUFFER if seen.buffers_differ else None
