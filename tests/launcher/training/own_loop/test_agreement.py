"""A loop that is not ours agrees one step late, and with itself on one process."""

from dataclasses import replace

import pytest
import torch

from launcher.contract.environment import RankEnvironment
from launcher.training.own_loop.adopted_ranks import adopted_ranks
from launcher.training.own_loop.agreement import Agreement
from strategies import Look, Report


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_said_at_a_step_is_read_at_the_next(device: str) -> None:
    ranks = adopted_ranks(RankEnvironment.from_environ({}), torch.device("cpu"))
    ranks = replace(ranks, device=torch.device(device))  # nothing is computed there
    looks = iter([Look(), Look(asked=True), Look()])
    boundary = Agreement(ranks, {}, lambda: next(looks))

    assert boundary.passed(Report(step=1, loss_sum=2.0, loss_count=1.0)) == (None, None)
    agreed, notice = boundary.passed(Report(step=2, stop=True))
    assert agreed is not None
    assert notice is not None
    assert (agreed.step, agreed.loss, agreed.stop, notice.asked) == (1, 2.0, 0, 0)
    known = boundary.drain()  # as before a save: nothing of it is lost
    agreed, notice = boundary.passed(Report(step=3))
    assert agreed is not None
    assert notice is not None
    assert agreed == known
    assert (agreed.step, agreed.stop, notice.asked) == (2, 1, 1)


class Loss:
    """A number that a device still computes."""

    is_read = False

    def __float__(self) -> float:
        self.is_read = True
        return 2.0


def test_a_step_does_not_wait_for_its_loss_on_a_device() -> None:
    """It is read at the next step, when the device is past it and has more to do."""
    ranks = adopted_ranks(RankEnvironment.from_environ({}), torch.device("cpu"))
    agreement, loss = Agreement(replace(ranks, device=torch.device("cuda"))), Loss()
    agreement.passed(Report(step=1, loss_sum=loss, loss_count=1.0))
    assert not loss.is_read
    agreed, _ = agreement.passed(Report(step=2))
    assert agreed is not None
    assert agreed.loss == 2.0


def test_what_is_asked_now_takes_along_what_is_under_way() -> None:
    ranks = adopted_ranks(RankEnvironment.from_environ({}), torch.device("cpu"))
    agreement = Agreement(ranks)
    agreement.passed(Report(step=1, stop=True))
    assert agreement.sums(2, 0.5) == [2.0, 0.5]
    assert agreement.any(True)
    assert not agreement.any(False)
    assert agreement.of_coordinator(7) == 7.0
    assert agreement.texts("why") == ["why"]
    ours = torch.tensor([0, 200, 255], dtype=torch.uint8)
    (theirs,) = agreement.gathered(ours)
    assert torch.equal(ours, theirs)
    agreed, _ = agreement.passed(Report(step=2))
    assert agreed is not None
    assert (agreed.step, agreed.stop) == (1, 1)


def test_one_process_has_no_group_and_gets_none() -> None:
    ranks = adopted_ranks(RankEnvironment.from_environ({}), torch.device("cpu"))
    assert (ranks.rank, ranks.world_size) == (0, 1)
    assert not torch.distributed.is_initialized()
