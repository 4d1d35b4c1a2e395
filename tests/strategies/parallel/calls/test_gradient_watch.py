"""A script that changes gradients by itself is told, before another number of ranks shows it."""

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from strategies import ConfigError, process_groups
from strategies.parallel.calls.gradient_watch import WATCHED, ArrivalWatch, GradientWatch


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(3, 2)


@pytest.fixture
def watch(model: nn.Module) -> GradientWatch:
    return GradientWatch(list(model.named_parameters()), "single")


def loss_of(model: nn.Module) -> torch.Tensor:
    total: torch.Tensor = model(torch.ones(4, 3)).sum()
    return total


def own_backward(model: nn.Module) -> None:
    loss_of(model).backward()  # type: ignore[no-untyped-call]


def write(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = 2 * torch.ones_like(parameter)


AFTER: list[Callable[[nn.Module], Any]] = [
    own_backward,
    write,
    lambda model: model.zero_grad(),
    lambda model: torch.optim.SGD(model.parameters(), lr=0.1).zero_grad(set_to_none=False),
    lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.1),
    lambda model: nn.utils.clip_grad_value_(model.parameters(), 0.1),
]


USES: list[Callable[[nn.Module], Any]] = [
    own_backward,
    lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.1),
    lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.1, foreach=False),
    lambda model: nn.utils.clip_grad_value_(model.parameters(), 0.1),
    lambda model: [p.grad.clamp_(-1, 1) for p in model.parameters() if p.grad is not None],
    lambda model: [float(p.grad.norm()) for p in model.parameters() if p.grad is not None],
    lambda model: [p.grad.data for p in model.parameters() if p.grad is not None],
    lambda model: torch.optim.SGD(model.parameters(), lr=0.1).zero_grad(set_to_none=False),
    lambda model: torch.optim.SGD(model.parameters(), lr=0.1).step(),
    lambda model: [copy.deepcopy(p.grad) for p in model.parameters()],
]


@pytest.mark.parametrize("change", AFTER)
def test_what_is_done_after_the_backward(
    change: Callable[[nn.Module], Any], model: nn.Module, watch: GradientWatch
) -> None:
    watch.begin()
    watch.require_as_left("step 0, micro-batch 3")
    own_backward(model)  # stands for the engine's
    watch.leave()
    watch.require_as_left("step 0, micro-batch 3")
    change(model)
    with pytest.raises(ConfigError, match=r"^step 0, micro-batch 3: .* gradient of weight .*max_g"):
        watch.require_as_left("step 0, micro-batch 3")


@pytest.mark.parametrize("change", [own_backward, write, lambda model: model.zero_grad()])
def test_what_is_done_before_it(
    change: Callable[[nn.Module], Any], model: nn.Module, watch: GradientWatch
) -> None:
    own_backward(model)  # of the micro-batch before
    watch.begin()
    change(model)
    with pytest.raises(ConfigError, match="gradient of weight"):
        watch.require_as_left("step 0, micro-batch 0")


@pytest.mark.parametrize("change", AFTER[1:])
def test_what_is_done_to_shards(change: Callable[[nn.Module], Any], model: nn.Module) -> None:
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        fully_shard(model, mesh=init_device_mesh(ranks.device.type, (1,)))
        watch = GradientWatch(list(model.named_parameters()), "single")
        watch.begin()
        own_backward(model)
        watch.leave()
        watch.require_as_left("")
        change(model)
        with pytest.raises(ConfigError, match="gradient of weight"):
            watch.require_as_left("")


def test_shards_whose_update_has_been_done(model: nn.Module) -> None:
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        fully_shard(model, mesh=init_device_mesh(ranks.device.type, (1,)))
        watch = GradientWatch(list(model.named_parameters()), "fsdp")
        watch.begin()
        watch.updated()
        for use in USES[1:7]:
            with pytest.raises(ConfigError, match="weight, which the update of the step has drop"):
                use(model)
        watch.withdraw()
        own_backward(model)
        assert all(p.grad is not None for p in model.parameters())


def test_an_own_backward_shows_where_gradients_are_taken_away(model: nn.Module) -> None:
    watch = ArrivalWatch(list(model.named_parameters()), "zero2")
    watch.begin()
    watch.require_as_left("")
    own_backward(model)
    model.zero_grad()
    with pytest.raises(ConfigError, match=r"step 0: .* gradient of (weight|bias)"):
        watch.require_as_left("step 0")
    for _ in range(WATCHED):
        watch.begin()
    own_backward(model)
    watch.require_as_left("")


@pytest.mark.parametrize("kind", [GradientWatch, ArrivalWatch])
@pytest.mark.parametrize("use", USES)
def test_gradients_that_are_elsewhere_are_not_used(
    use: Callable[[nn.Module], Any], kind: type[GradientWatch], model: nn.Module
) -> None:
    watch = kind(list(model.named_parameters()), "zero2")
    watch.begin()
    own_backward(model)  # stands for the engine's
    model.zero_grad()  # which takes them away
    watch.leave()
    with pytest.raises(
        ConfigError,
        match=r"gradient of (weight|bias), which strategy=zero2 has.*max_grad_norm=\.\.\.",
    ):
        use(model)
    watch.require_as_left("")
    assert [p.grad for p in model.parameters()] == [None, None]


@pytest.mark.parametrize("change", [write, lambda model: model.zero_grad()])
def test_gradients_that_are_replaced_where_the_engine_has_taken_them(
    change: Callable[[nn.Module], Any], model: nn.Module
) -> None:
    watch = ArrivalWatch(list(model.named_parameters()), "zero2")
    watch.begin()
    watch.leave()
    change(model)
    with pytest.raises(ConfigError, match="gradient of weight"):
        watch.require_as_left("")


@pytest.mark.parametrize("change", AFTER)
def test_what_an_engine_leaves_in_grad_is_not_changed(
    change: Callable[[nn.Module], Any], model: nn.Module
) -> None:
    """As DeepSpeed's stage 1 adds micro-batches there."""
    watch = ArrivalWatch(list(model.named_parameters()), "zero1")
    watch.begin()
    own_backward(model)
    watch.leave()
    change(model)
    with pytest.raises(ConfigError, match="gradient of weight"):
        watch.require_as_left("")


def test_nothing_is_stood_in_for_after_the_first_micro_batches(model: nn.Module) -> None:
    watch = ArrivalWatch(list(model.named_parameters()), "zero2")
    for _ in range(WATCHED):
        watch.begin()
        watch.leave()
        assert all(p.grad is not None for p in model.parameters())
        assert watch.gradient_of(next(model.parameters()), torch.Size((9, 9))).shape == (9, 9)  # type: ignore[union-attr]
    watch.begin()
    watch.leave()
    assert all(p.grad is None for p in model.parameters())
    assert watch.gradient_of(next(model.parameters()), torch.Size((9, 9))) is None


@pytest.mark.parametrize("use", [*USES[1:8], USES[9]])
def test_gradients_that_an_update_has_dropped_are_not_used(
    use: Callable[[nn.Module], Any], model: nn.Module
) -> None:
    watch = GradientWatch(list(model.named_parameters()), "single")
    watch.begin()
    watch.updated()
    with pytest.raises(ConfigError, match="weight, which the update of the step has dropped: clip"):
        use(model)
    model.zero_grad()  # as is usual there
    watch.begin()
    watch.require_as_left("")
    own_backward(model)
    assert all(p.grad is not None for p in model.parameters())


def test_what_is_not_here_keeps_its_empty_grad(model: nn.Module) -> None:
    watch = ArrivalWatch(list(model.named_parameters()), "zero3", lambda p: p.ndim == 1)
    watch.begin()
    watch.leave()
    assert [p.grad is None for p in model.parameters()] == [True, False]


def test_looking_and_gradients_of_other_things_are_left_alone(
    model: nn.Module, watch: GradientWatch
) -> None:
    x = torch.ones(4, 3, requires_grad=True)
    watch.begin()
    torch.autograd.grad(model(x).sum(), x, create_graph=True)
    watch.require_as_left("")
    own_backward(model)
    watch.leave()
    assert sum(float(p.grad.norm()) for p in model.parameters() if p.grad is not None) > 0
    nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    watch.require_as_left("")


def test_only_the_first_micro_batches_are_looked_at(model: nn.Module, watch: GradientWatch) -> None:
    for _ in range(WATCHED):
        watch.begin()
    model.zero_grad()
    own_backward(model)
    with pytest.raises(ConfigError):
        watch.require_as_left("")
    watch.begin()
    own_backward(model)
    watch.leave()
    model.zero_grad()
    watch.require_as_left("")


def test_a_hook_that_changes_what_was_added_up_is_refused_and_one_that_looks_is_called() -> None:
    weight, seen = torch.ones(2, requires_grad=True), list[float]()
    watch = GradientWatch([("weight", weight)], "single")

    def look(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        seen.append(float(parameter.grad.sum()))

    def halve(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.mul_(0.5)

    weight.register_post_accumulate_grad_hook(look)  # type: ignore[no-untyped-call]
    for _ in range(2):
        watch.begin()
        weight.sum().backward()  # type: ignore[no-untyped-call]
    assert seen == [2.0, 4.0]
    weight.register_post_accumulate_grad_hook(halve)  # type: ignore[no-untyped-call]
    watch.begin()
    with pytest.raises(ConfigError, match=r"a hook .* has changed the gradient of weight\. It is"):
        weight.sum().backward()  # type: ignore[no-untyped-call]
