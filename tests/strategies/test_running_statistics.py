import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from strategies.process_group import process_groups
from strategies.running_statistics import RunningStatistics


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_two_ranks_compute_what_one_that_sees_all_does(momentum: float | None) -> None:
    torch.manual_seed(0)
    truth = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, momentum=momentum))
    shares = [copy.deepcopy(truth) for _ in range(2)]
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        followers = [RunningStatistics(model, ranks) for model in shares]
        for _ in range(3):
            batches = [torch.randn(4, 5) for _ in range(3)]
            for batch in batches:
                truth(batch)
            sums = []
            for rank, (model, follower) in enumerate(zip(shares, followers, strict=True)):
                follower.begin_step()
                for index in (rank, rank + 2):
                    follower.begin_micro_batch()
                    model(batches[index % 3])
                    follower.end_micro_batch(index % 3, 3, is_padding=index >= 3)
                sums.append([t.terms for t in follower._tracked])
            for number in range(2):
                total = sum(s[0][number] for s in sums)
                for s in sums:
                    s[0][number].copy_(total)
            for follower in followers:
                follower.end_step(3)
    for model in shares:
        for name, value in truth.named_buffers():
            torch.testing.assert_close(dict(model.named_buffers())[name], value)


def test_a_model_without_batch_norm_costs_no_collective(monkeypatch: pytest.MonkeyPatch) -> None:
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        follower = RunningStatistics(nn.Linear(2, 2), ranks)

        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("a collective")

        monkeypatch.setattr(dist, "all_reduce", refuse)
        follower.begin_step()
        follower.begin_micro_batch()
        follower.end_micro_batch(0, 1, is_padding=False)
        follower.end_step(1)


def test_what_follows_the_number_of_ranks_is_told_once():
    layers = [nn.BatchNorm1d(2), nn.SyncBatchNorm(2), nn.SyncBatchNorm(2)]
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        (note,) = RunningStatistics(nn.Sequential(*layers), ranks).notes
        assert note.startswith("the model has SyncBatchNorm")
        assert RunningStatistics(nn.Sequential(layers[0]), ranks).notes == []
