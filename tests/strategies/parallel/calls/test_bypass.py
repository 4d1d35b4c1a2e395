"""What torch says where a weight is used that the engine has not given out."""

import pytest
import torch

from strategies.parallel.calls.bypass import bypassed, explanation

MIXED = "aten.addmm.default got mixed torch.Tensor and DTensor, need to convert all"
EMPTY = "Function PowBackward0 returned an invalid gradient at index 0 - got [0] but expected shape"


@pytest.mark.parametrize(
    ("strategy", "error", "says"),
    [
        ("fsdp", RuntimeError(MIXED), "are in shards there"),
        ("fsdp", RuntimeError("FSDP state has already been lazily initialized for a"), "in shards"),
        ("fsdp", RuntimeError("setStorage: requiring a storage size of 4"), "changed in place"),
        ("zero3", RuntimeError(f"{EMPTY} compatible with [8]\nmore"), "penalty=Penalty(...)"),
        ("zero2", RuntimeError("mat1 and mat2 must have the same dtype, but"), "are not cast"),
        ("ddp", RuntimeError(MIXED), None),
        ("zero2", RuntimeError(f"{EMPTY} compatible with [8]"), None),
        ("single", RuntimeError("mat1 and mat2 must have the same dtype"), None),
        ("fsdp", ValueError(MIXED), None),
        ("fsdp", RuntimeError("out of memory"), None),
    ],
)
def test_explanation(strategy: str, error: Exception, says: str | None) -> None:
    sentence = explanation(error, strategy)
    if says is None:
        assert sentence is None
        return
    assert sentence is not None
    assert says in sentence
    assert f"strategy={strategy}" in sentence
    assert "call job.model(...)" in sentence
    assert sentence.endswith(str(error).splitlines()[0])


def test_a_second_backward_is_explained_under_every_strategy() -> None:
    x = torch.ones(1, requires_grad=True)
    loss = (x * x).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError) as raised:
        loss.backward()  # type: ignore[no-untyped-call]
    sentence = explanation(raised.value, "single")
    assert sentence is not None
    assert "so leave loss.backward() out" in sentence


def test_a_loss_of_which_the_engine_has_seen_nothing() -> None:
    assert bypassed("ddp", "nobody sums").startswith(
        "the loss was not computed through job.model, and under strategy=ddp nobody sums. In place"
    )


@pytest.mark.parametrize(
    ("strategy", "words", "says"),
    [
        (
            "fsdp",
            "Attempted to access the data pointer on an invalid python storage.",
            "job.export",
        ),
        ("fsdp", "Error(s) in loading state_dict for FSDPNet:\nmore", "run.prepare(weights=...)"),
        (
            "zero2",
            "Error while trying to find names to remove to save state dict, but",
            "job.export",
        ),
    ],
)
def test_files_are_explained(strategy: str, words: str, says: str) -> None:
    sentence = explanation(RuntimeError(words), strategy)
    assert sentence is not None
    assert says in sentence
    assert sentence.endswith(words.splitlines()[0])
    assert explanation(RuntimeError(words), "single") is None
