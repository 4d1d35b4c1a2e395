"""Sums by a group: always of one length, so that unlike ones are told instead of aborting."""

import pytest
import torch.distributed as dist

from strategies.collectives.host_channel import MOST_NUMBERS, GroupChannel
from strategies.collectives.process_group import process_groups
from strategies.errors import DesyncError


@pytest.mark.parametrize("values", [[], [1.5], [float(n) for n in range(MOST_NUMBERS)]])
def test_a_sum_of_up_to_as_many_numbers(values):
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        started = GroupChannel(ranks.host_group).start(values)
        assert started.wait() == values
        assert started.wait() == values  # again


@pytest.mark.parametrize("others", [0, 1, 3])
def test_ranks_that_sum_another_number_of_numbers_are_told(monkeypatch, others):
    """What two ranks would add up, made by hand: this one has two numbers."""

    class Done:
        def wait(self):
            return True

    def all_reduce(vector, group, async_op):
        assert len(vector) == MOST_NUMBERS + 2
        vector[0] += others
        vector[1] += others**2
        return Done()

    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        channel = GroupChannel(ranks.host_group)
        monkeypatch.setattr(dist, "all_reduce", all_reduce)
        monkeypatch.setattr(type(ranks.host_group), "size", lambda group: 2)
        with pytest.raises(DesyncError, match=r"rank 0 sums 2 numbers .* same steps in the same"):
            channel.start([1.0, 2.0]).wait()
