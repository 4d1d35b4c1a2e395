"""The layout of a shard, which save after save takes again."""

import json
import weakref
from dataclasses import replace

import pytest
import torch

from checkpointing import Fragment, SaveFailedError, TensorSpec
from checkpointing.saving.shard_plan import Layouts, ShardPlan, plan_shard


def fragment(fqn: str, size: int, dtype: str = "F32", start: int = 0) -> Fragment:
    data = torch.zeros(size, dtype=torch.float32 if dtype == "F32" else torch.float64)
    spec = TensorSpec(fqn=fqn, key="fp32", shape=(start + size,), dtype=dtype)
    return Fragment(spec=spec, start=start, end=start + size, data=data)


def seen(plan: ShardPlan) -> tuple[object, ...]:
    return plan.header, plan.offsets, plan.size_bytes, plan.rows


def test_the_same_fragments_are_laid_out_once_and_others_anew() -> None:
    layouts = Layouts()

    def state(**sizes: int) -> list[Fragment]:
        return [
            fragment(name, size, "F64" if name == "wide" else "F32") for name, size in sizes.items()
        ]

    first = layouts.plan(state(a=3, wide=2, none=0), {})
    assert [one.spec.fqn for one in first.fragments] == ["wide", "a"]
    second_state = state(a=3, wide=2, none=0)
    second = layouts.plan(second_state, {})
    assert second.header is first.header
    assert second.fragments[1] is second_state[0]
    for other in (
        state(a=4, wide=2),
        state(wide=2, a=4),
        [fragment("a", 2, start=1)],
        [fragment("a", 2)],
        [],
    ):
        again = layouts.plan(other, {})
        assert seen(again) == seen(plan_shard(other, {}))
        assert again.fragments == plan_shard(other, {}).fragments
    with_metadata = layouts.plan([], {"by": "me"})
    assert with_metadata.header == plan_shard([], {"by": "me"}).header != plan_shard([], {}).header


def test_no_fragment_is_kept() -> None:
    layouts, one = Layouts(), fragment("a", 3)
    data = weakref.ref(one.data)
    layouts.plan([one], {})
    del one
    assert data() is None


def test_what_is_reported_of_it_is_spelled_once_for_all_saves() -> None:
    layouts = Layouts()
    plan = layouts.plan([fragment("a", 3, start=2), fragment("wide", 2, "F64")], {})
    at = len(plan.header)
    assert json.loads(plan.rows) == [
        ["wide", "fp32", [2], "F64", 0, 2, at],
        ["a", "fp32", [5], "F32", 2, 5, at + 16],
    ]
    again = layouts.plan([fragment("a", 3, start=2), fragment("wide", 2, "F64")], {})
    assert again.rows is plan.rows


def test_a_fragment_that_is_given_twice_is_refused_each_time() -> None:
    layouts, one = Layouts(), fragment("a", 3)
    for _ in range(2):
        with pytest.raises(SaveFailedError, match=r"fp32/a@0:3 is given 2 times"):
            layouts.plan([one, replace(one)], {})
