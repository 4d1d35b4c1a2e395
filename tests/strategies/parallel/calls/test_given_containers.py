"""What modules do to lists, dicts and dataclasses, although an engine gives them copies."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.fsdp import fully_shard

from strategies.parallel.calls.given_containers import containers_as_given


@dataclass
class State:
    """Filled by blocks."""

    last: Any = None
    seen: list[Any] = field(default_factory=list)


class Block(nn.Module):
    """Fills what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 3)

    def forward(
        self, x: torch.Tensor, losses: list[Any], *, kept: dict[str, Any], state: State
    ) -> torch.Tensor:
        y: torch.Tensor = self.mix(x)
        losses.append(y.square().mean())
        if len(losses) > 2:
            losses[0] = losses[0] * 2
        kept["y"], kept["n"] = y, kept["n"] + 1
        state.last = y
        state.seen.append([y])
        return y


class Net(nn.Module):
    """Three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> Any:
        losses: list[Any] = []
        kept: dict[str, Any] = {"n": 0}
        state, mine = State(), (losses, kept)
        for block in self.blocks:
            x = block(x, losses, kept=kept, state=state)
        assert mine[0] is losses
        assert kept["y"] is state.last
        return torch.stack([x.mean(), *losses]), kept["n"], state


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def results(*, shard: bool, hooked: bool) -> tuple[Any, ...]:
    torch.manual_seed(1)
    model = Net()
    modules: list[nn.Module] = [*model.blocks, model] if hooked else []
    with containers_as_given(modules, engine_comes_first=True):
        for block in model.blocks if shard else ():
            fully_shard(block)
        if shard:
            fully_shard(model)
    losses, count, state = model(torch.ones(2, 3))
    losses.sum().backward()
    grads = [p.grad.full_tensor() if shard else p.grad for p in model.parameters()]  # type: ignore[union-attr]
    return (
        losses.tolist(),
        count,
        len(state.seen),
        [grad.tolist() for grad in grads if grad is not None],
    )


@pytest.mark.usefixtures("group")
def test_blocks_of_fully_shard_fill_what_they_are_given() -> None:
    plain = results(shard=False, hooked=False)
    assert plain[1:3] == (3, 3)
    assert results(shard=True, hooked=False) != plain  # what torch does
    assert results(shard=True, hooked=True) == plain


def copied_lists(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """As DeepSpeed's stage 3 copies."""
    return tuple(list(one) if isinstance(one, list) else one for one in args)


class Fills(nn.Module):
    """Changes a list, and may fail afterwards."""

    def forward(self, into: list[int], *, fail: bool = False) -> None:
        into.append(len(into))
        if fail:
            raise ValueError("it fails")


def test_a_list_is_changed_also_where_the_module_fails() -> None:
    model = Fills()
    with containers_as_given([model], engine_comes_first=False):
        model.register_forward_pre_hook(copied_lists)
    into: list[int] = []
    model(into)
    with pytest.raises(ValueError, match="it fails"):
        model(into, fail=True)
    model(into)
    assert into == [0, 1, 2]
