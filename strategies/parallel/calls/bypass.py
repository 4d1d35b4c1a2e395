"""Sentences for a model that is computed beside its engine. Pure."""

from __future__ import annotations

REMEDY = (
    "In place of the module that the function passed as model= has returned, call job.model(...), "
    "a method as in job.model.encode(...), or a part as in job.model.head(...)."
)

_SHARDED = (
    "the weights that it needs are in shards there (for a penalty on weights: "
    "run.prepare(penalty=Penalty(...)); for an average of them: run.prepare(ema=EMA(...)))"
)
IN_PLACE = (
    "a block, or the model, has returned a view that was then changed in place (x += ...), with "
    "which torch loses sight of it: write x = x + ..."
)
_SHARDED_OR_VIEW = f"{_SHARDED}; or {IN_PLACE}"
_CAST = "the inputs that it was given are not cast there"
_PENALTY = (
    "a weight itself is in the loss, and is in shards again before the backward: for a penalty on "
    "weights pass run.prepare(penalty=Penalty(...))"
)

_MARKS: dict[str, tuple[tuple[str, str], ...]] = {
    "fsdp": (
        ("got mixed torch.Tensor and DTensor", _SHARDED),
        ("FSDP state has already been lazily initialized", _SHARDED),
        ("FSDP requires running forward through the root module first", _SHARDED),
        ("requiring a storage size", _SHARDED_OR_VIEW),
    ),
    "zero1": (("must have the same dtype", _CAST),),
    "zero2": (("must have the same dtype", _CAST),),
    "zero3": (
        ("must have the same dtype", _CAST),
        ("got [0] but expected shape", _PENALTY),
        ("expected shape compatible with [0]", _PENALTY),
        ("vec (0)", _SHARDED),
        ("'weight' must be 2-D", _SHARDED),
    ),
}
"""What torch says, by strategy, where a module or a weight is used that the engine has not given
out; and why that is so. Read in torch 2.13 and deepspeed 0.19, and tried on 2.13."""


_OTHER_ORDER = "Detected a disagreement on list contents"
"""DeepSpeed's words in stage 3 (zero/utils.py)."""
_TWICE = "backward through the graph a second time"
_EXPORT = "job.export() on every rank writes the whole model as one safetensors file."
_FILES: dict[str, tuple[tuple[str, str], ...]] = {
    "fsdp": (
        (
            "access the data pointer on an invalid python storage",
            f"weights were to be written that are in shards under strategy=fsdp. {_EXPORT}",
        ),
        (
            "in loading state_dict",
            "a state dict was to be loaded into weights that are in shards under strategy=fsdp. "
            "Load it in the function that is passed as model=, or pass run.prepare(weights=...).",
        ),
    ),
    **dict.fromkeys(
        ("zero1", "zero2"),
        (
            (
                "trying to find names to remove to save state dict",
                "safetensors was to write weights that share memory, as they do under ZeRO. "
                + _EXPORT,
            ),
        ),
    ),
}
"""What torch and safetensors (0.8) say where weights are read or written, by strategy."""


def bypassed(strategy: str, trouble: str) -> str:
    """Return the sentence about a loss of which the engine has seen nothing."""
    return (
        f"the loss was not computed through job.model, and under strategy={strategy} {trouble}. "
        f"{REMEDY}"
    )


def explanation(error: Exception, strategy: str) -> str | None:
    """Return what to do about an error of torch's that such a use ends in; None: another error."""
    if not isinstance(error, RuntimeError | AssertionError):
        return None
    words = str(error)
    if _TWICE in words:
        return (
            "a loss went through a second backward: step.backward(loss, count) is the only one "
            "that a micro-batch needs, so leave loss.backward() out, and add several losses up "
            f"before it. torch said: {words.splitlines()[0]}"
        )
    if strategy == "zero3" and _OTHER_ORDER in words:
        return (
            "the model's layers were called in another order on some ranks, and under "
            "strategy=zero3 all ranks gather the weights of one layer after the other. Call the "
            "layers in the same order for any samples, or use --strategy ddp or zero2."
        )
    for mark, sentence in _FILES.get(strategy, ()):
        if mark in words:
            return f"{sentence} The error was: {words.splitlines()[0]}"
    for mark, trouble in _MARKS.get(strategy, ()):
        if mark in words:
            return (
                "the model, or a part of it, was computed beside job.model, and under "
                f"strategy={strategy} {trouble}. {REMEDY} torch said: {words.splitlines()[0]}"
            )
    return None
