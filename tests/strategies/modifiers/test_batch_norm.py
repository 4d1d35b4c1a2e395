import copy
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import nn

from strategies.collectives.process_group import process_groups
from strategies.modifiers.batch_norm import RunningStatistics


def with_norm(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), norm)


def used_twice() -> nn.Module:
    norm = nn.BatchNorm1d(7)
    return nn.Sequential(nn.Linear(5, 7), norm, nn.Tanh(), norm)


def frozen() -> nn.Module:
    norm = nn.BatchNorm1d(7)
    norm.running_mean.uniform_()  # type: ignore[union-attr,operator]
    return with_norm(norm.eval())


def with_one_that_is_not_used() -> nn.Module:
    model = with_norm(nn.BatchNorm1d(7))
    model.register_forward_pre_hook(lambda *_: None)
    model[1].spare = nn.BatchNorm1d(3)  # type: ignore[assignment]
    model[1].spare.running_var.fill_(4.0)  # type: ignore[union-attr,operator]
    return model


class OfSequences(nn.Module):
    """InstanceNorm takes (samples, channels, places)."""

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(3, track_running_stats=True, momentum=momentum)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x[:, None, :].repeat(1, 3, 1) * torch.arange(1.0, 4.0)[:, None])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "model",
    [
        lambda: with_norm(nn.BatchNorm1d(7)),
        lambda: with_norm(nn.BatchNorm1d(7, momentum=0.5)),
        lambda: with_norm(nn.BatchNorm1d(7, momentum=None)),
        used_twice,
        frozen,
        with_one_that_is_not_used,
        OfSequences,
        lambda: OfSequences(momentum=0.5),
        lambda: OfSequences(momentum=None),
    ],
)
def test_two_ranks_compute_what_one_that_sees_all_does(model: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    truth = model()
    shares = [copy.deepcopy(truth) for _ in range(2)]
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        followers = [RunningStatistics(one, ranks) for one in shares]
        for _ in range(3):
            batches = [torch.randn(4, 5) for _ in range(3)]
            for batch in batches:
                expected = truth(batch)
            sums = []
            for rank, (one, follower) in enumerate(zip(shares, followers, strict=True)):
                follower.begin_step(3)
                for index in (rank, rank + 2):
                    is_padding = index >= 3
                    follower.begin_micro_batch(index % 3, is_padding=is_padding)
                    found = one(batches[index % 3])
                    if index == 2:
                        torch.testing.assert_close(found, expected)
                    follower.end_micro_batch(index % 3, 3, is_padding=is_padding)
                sums.append(follower._norms.terms)
            total = sums[0] + sums[1]
            for terms in sums:
                terms.copy_(total)
            for follower in followers:
                assert follower.end_step(3) == []
    for one in shares:
        for name, value in truth.named_buffers():
            torch.testing.assert_close(dict(one.named_buffers())[name], value)


def test_what_is_given_up_is_put_back() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval())
    before = copy.deepcopy(model.state_dict())
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        follower = RunningStatistics(model, ranks)
        follower.begin_step(1)
        follower.begin_micro_batch(0, is_padding=False)
        model(torch.randn(4, 2))
        follower.give_up()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_batch_norm_costs_no_collective(monkeypatch: pytest.MonkeyPatch) -> None:
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        follower = RunningStatistics(nn.Linear(2, 2), ranks)

        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("a collective")

        monkeypatch.setattr(dist, "all_reduce", refuse)
        follower.begin_step(1)
        follower.begin_micro_batch(0, is_padding=False)
        follower.end_micro_batch(0, 1, is_padding=False)
        follower.end_step(1)


def test_what_follows_the_number_of_ranks_is_told_once():
    layers = [nn.BatchNorm1d(2), nn.SyncBatchNorm(2), nn.SyncBatchNorm(2)]
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        (note,) = RunningStatistics(nn.Sequential(*layers), ranks).notes
        assert note.startswith("the model has SyncBatchNorm")
        assert RunningStatistics(nn.Sequential(layers[0]), ranks).notes == []
