"""Gradients of inputs, added up call by call: the same bits with and without an engine's nodes."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from strategies.parallel.calls.copies import AsBuilt
from strategies.parallel.gradients.by_call import add_up_by_call

WIDTH, TRIES = 7, 20


class Pair(NamedTuple):
    """Keys, and values."""

    keys: torch.Tensor
    values: torch.Tensor


class Block(nn.Module):
    """Uses each input several times, one of them by name and in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, again: torch.Tensor, *, pair: Pair) -> torch.Tensor:
        assert type(pair) is Pair
        y: torch.Tensor = self.mix(x) * pair.keys + pair.values.sin() * again
        return y + torch.tanh(again) * pair.keys + x * pair.values.cos()


class Net(nn.Module):
    """Blocks that are given the same tensors, also one as several inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shared = x = torch.tanh(self.first(x))
        for block in self.blocks:
            x = block(x, x, pair=Pair(shared, x)) + x.square() * shared
        return x + shared


class _ForAll(torch.autograd.Function):
    """One node for all inputs, as fully_shard has it."""

    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> Any:
        return tuple(x.detach() for x in inputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads


def one_for_all(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    x, again, keys, values = _ForAll.apply(*args, *kwargs["pair"])  # type: ignore[no-untyped-call]
    return (x, again), {"pair": Pair(keys, values)}


def one_for_each(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    return tuple(_ForAll.apply(x)[0] for x in args), kwargs  # type: ignore[no-untyped-call]


Hook = Callable[..., Any]


def gradients(seed: int, hook: Hook | None, *, in_front: bool, by_call: bool) -> list[torch.Tensor]:
    """Of each parameter, with an engine's node in front of each block."""
    torch.manual_seed(seed)
    model = Net()
    if hook is not None:
        for block in model.blocks:
            block.register_forward_pre_hook(hook, with_kwargs=True, prepend=in_front)
    if by_call:
        add_up_by_call(model, lambda call, args, kwargs: None)
    model(torch.randn(3, WIDTH)).sum().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def differ(hook: Hook, *, in_front: bool, by_call: bool) -> int:
    """In how many tries some bit is another than without an engine."""
    found = 0
    for seed in range(TRIES):
        plain = gradients(seed, None, in_front=in_front, by_call=by_call)
        nodes = gradients(seed, hook, in_front=in_front, by_call=by_call)
        found += not all(map(torch.equal, plain, nodes))
    return found


@pytest.mark.parametrize("in_front", [True, False])
@pytest.mark.parametrize("hook", [one_for_all, one_for_each])
def test_an_engines_nodes_change_no_bit(hook: Hook, in_front: bool) -> None:
    assert differ(hook, in_front=in_front, by_call=False) > TRIES // 2
    assert differ(hook, in_front=in_front, by_call=True) == 0


class Looks(nn.Module):
    """Keeps what it is given."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.seen = args, kwargs
        return args


def test_only_what_requires_a_gradient_has_a_node() -> None:
    model = Looks()
    add_up_by_call(model, lambda call, args, kwargs: None)
    plain, leaf, many = torch.ones(2), torch.ones(2, requires_grad=True), [torch.ones(2)]
    sparse = torch.eye(2).to_sparse().requires_grad_()
    model(plain, leaf, many, sparse, name="x")
    (same, node, same_list, as_it_is), names = model.seen
    assert same is plain
    assert same_list is many
    assert as_it_is is sparse
    assert names == {"name": "x"}
    assert node is not leaf
    assert node.data_ptr() == leaf.data_ptr()
    with torch.no_grad():
        model(leaf, (leaf,))
    assert model.seen[0][0] is leaf


def test_a_call_of_the_scripts_own_is_one_too() -> None:
    passed: list[Any] = []
    through = add_up_by_call(nn.Linear(2, 2), lambda call, args, kwargs: passed.append(args))
    leaf = torch.ones(2, requires_grad=True)
    through(None, (leaf, (leaf, 3)), {})  # type: ignore[arg-type]
    ((first, (second, three)),) = passed
    assert first is not leaf
    assert second is not first
    assert three == 3


class Adds(nn.Module):
    """Changes its input in place."""

    def forward(self, x: torch.Tensor) -> None:
        x *= 3


def test_what_is_done_in_place_the_caller_sees() -> None:
    model = nn.ModuleList([Adds(), nn.ReLU(inplace=True), torch.jit.script(nn.ReLU())])
    add_up_by_call(model, lambda call, args, kwargs: None)
    leaf = torch.tensor([2.0, -1.0], requires_grad=True)
    x = leaf * 1
    model[0](x)
    y = model[1](x)
    assert y is x
    assert y._base is None
    model[2](y * x).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [36.0, 0.0]


def test_a_copy_has_no_such_nodes() -> None:
    model = Net()
    as_built = AsBuilt(model)
    add_up_by_call(model, lambda call, args, kwargs: None)
    as_built.let_be_copied(model)
    for one in copy.deepcopy(model).modules():
        assert not one._forward_pre_hooks
        assert not one._forward_pre_hooks_with_kwargs
