"""The layout of a shard, which save after save takes again."""

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
    return plan.header, plan.offsets, plan.size_bytes, plan.stored_in("r00000.safetensors")


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
    layouts.plan([one], {}).stored_in("r00000.safetensors")
    del one
    assert data() is None


def test_where_it_lies_is_of_the_file_that_is_asked_for() -> None:
    plan = plan_shard([fragment("a", 3)], {})
    for name in ("r00000-0123456789abcdef.safetensors", "r00000-fedcba9876543210.safetensors"):
        ((chunk,),) = [tensor.chunks for tensor in plan.stored_in(name)]
        assert (chunk.file, chunk.start, chunk.end, chunk.offset) == (name, 0, 3, len(plan.header))


def test_a_fragment_that_is_given_twice_is_refused_each_time() -> None:
    layouts, one = Layouts(), fragment("a", 3)
    for _ in range(2):
        with pytest.raises(SaveFailedError, match=r"fp32/a@0:3 is given 2 times"):
            layouts.plan([one, replace(one)], {})
