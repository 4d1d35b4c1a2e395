"""Which optimizers may go on with which state."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from strategies.parallel.state.implementation import library_of, refusal_of_other
from strategies.parallel.trial.likeness import likeness_of
from strategies.parallel.trial.resumption import Resumable
from strategies.parallel.trial.stepping import Whole

VARIANTS: dict[str, dict[str, bool]] = {
    "plain": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.Adagrad])
@pytest.mark.parametrize("before", VARIANTS)
@pytest.mark.parametrize("after", VARIANTS)
def test_torchs_variants_go_on_with_each_others_state(kind: Any, before: str, after: str) -> None:
    named = [("weight", nn.Parameter(torch.ones(5, 7))), ("bias", nn.Parameter(torch.ones(5)))]
    first, second = (partial(kind, lr=0.01, **VARIANTS[one]) for one in (before, after))
    likeness = likeness_of(first, named, CPU)
    whole, resumed = Whole(first, likeness), Whole(second, likeness)
    saved = Resumable(whole)
    for number in range(4):
        whole.step(number)
    saved.continued_in(resumed)
    for number in range(4, 8):
        whole.step(number)
        resumed.step(number)
    for name, parameter in whole.named.items():
        torch.testing.assert_close(resumed.named[name], parameter, rtol=1e-6, atol=1e-7)


class AdamW(torch.optim.AdamW):
    """A script's own."""


def test_where_a_class_comes_from() -> None:
    assert library_of(torch.optim.AdamW) == "torch"
    assert library_of(AdamW) is None


OF_TORCH = {"name": "AdamW", "library": "torch"}


@pytest.mark.parametrize(
    ("written", "name", "library", "says"),
    [
        (OF_TORCH, "AdamW", "torch", None),
        ({"name": "AdamW"}, "AdamW", "bitsandbytes", None),
        ({"name": None}, "AdamW", "torch", None),
        ({"name": "Own", "library": None}, "Own", None, None),
        (OF_TORCH, "AdamW", "bitsandbytes", "AdamW of torch, and the script builds AdamW of bits"),
        (OF_TORCH, "AdamW", None, "AdamW of torch, and the script builds AdamW of a script."),
        (OF_TORCH, "AdamW8bit", "bitsandbytes", "AdamW, and the script builds AdamW8bit."),
        (OF_TORCH, "FusedAdam", "deepspeed", "AdamW, and the script builds FusedAdam."),
    ],
)
def test_another_librarys_state_is_refused_by_name(
    written: dict[str, Any], name: str, library: str | None, says: str | None
) -> None:
    told = refusal_of_other(written, name, library, "step-00000004")
    if says is None:
        assert told is None
    else:
        assert told is not None
        assert told.startswith("step-00000004 was made with the optimizer ")
        assert says in told
        assert "another --run-dir" in told
