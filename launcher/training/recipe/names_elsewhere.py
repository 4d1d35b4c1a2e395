"""What other libraries call an argument, and the message when it is passed here; data only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """An argument that a user knows from elsewhere."""

    sentence: str
    ours: str | None = None
    """Our argument, where the sentence is of use only to calls that have it."""

    def is_for(self, known: Collection[str]) -> bool:
        """Return whether the sentence is true of a call that knows these arguments."""
        return self.ours is None or self.ours in known


def _is(ours: str, more: str = "") -> Elsewhere:
    return Elsewhere(sentence=f"it is {ours}= here{more}.", ours=ours)


_ORDER = Elsewhere(
    sentence="the order of the samples is made here, from seed and epoch, so that it is the same "
    "on any number of ranks. Leave it out; a data set in an order of its own is a stream with "
    "seek(position), and torch.utils.data.Subset(data, indices) picks or repeats samples.",
)
_IN_PREPARE = "in run.prepare, for evaluations too"
_WORKERS = Elsewhere(sentence=f"loader processes are asked for as workers= {_IN_PREPARE}.")
_COLLATE = _is("collate", ": a function from the list of samples to the batch")
_BATCH = Elsewhere(
    sentence="give micro_batch= (samples in one forward of one rank) and global_batch= (samples in "
    "one optimizer step over all ranks) to run.prepare.",
)

ELSEWHERE: Mapping[str, Elsewhere] = {
    "batch_sampler": _ORDER,
    "batch_size": _BATCH,
    "collate_fn": _COLLATE,
    "data_collator": _COLLATE,
    "dataloader_num_workers": _WORKERS,
    "drop_last": Elsewhere(
        sentence="no sample is left out: a short last batch counts for what it has."
    ),
    "gradient_accumulation_steps": Elsewhere(
        sentence="it follows from global_batch=, micro_batch= and the number of ranks."
    ),
    "multiprocessing_context": Elsewhere(
        sentence="call torch.multiprocessing.set_start_method(...) at the script's start instead."
    ),
    "num_workers": _WORKERS,
    "per_device_train_batch_size": _BATCH,
    "persistent_workers": Elsewhere(sentence=f"it is persistent= here, {_IN_PREPARE}."),
    "pin_memory": Elsewhere(sentence="batches are pinned wherever there is a GPU. Leave it out."),
    "prefetch_factor": Elsewhere(sentence=f"it is prefetch= here, {_IN_PREPARE}."),
    "sampler": _ORDER,
    "shuffle": _ORDER,
    "train_dataset": _is("train"),
    "worker_init_fn": Elsewhere(sentence=f"it is worker_init= here, {_IN_PREPARE}."),
}
