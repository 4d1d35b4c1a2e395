import numpy as np
import pytest

from strategies.data.permutation import shuffled
from strategies.data.splits import split_indices


@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 5, 13, 16, 17, 1797, 10007, 65536])
def test_every_position_gives_another_sample(num_samples: int) -> None:
    order = shuffled(np.arange(num_samples), num_samples, seed=1, epoch=0)
    assert sorted(order.tolist()) == list(range(num_samples))


def test_any_part_can_be_had_without_the_rest() -> None:
    whole = shuffled(np.arange(10007), 10007, seed=5, epoch=3)
    part = shuffled(np.arange(4000, 4100), 10007, seed=5, epoch=3)
    assert part.tolist() == whole[4000:4100].tolist()


def test_seeds_and_epochs_give_other_orders_that_look_random() -> None:
    first = shuffled(np.arange(5000), 5000, seed=1, epoch=0)
    for other in (
        shuffled(np.arange(5000), 5000, seed=1, epoch=1),
        shuffled(np.arange(5000), 5000, seed=2, epoch=0),
    ):
        assert (first != other).mean() > 0.99
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.05
    assert abs(np.corrcoef(first, np.arange(5000))[0, 1]) < 0.05


def test_a_billion_samples_need_no_memory() -> None:
    positions = np.arange(10**9 - 1000, 10**9)
    order = shuffled(positions, 10**9, seed=1, epoch=0)
    assert len(set(order.tolist())) == 1000
    assert 0 <= order.min() <= order.max() < 10**9


def test_the_order_is_the_same_in_every_release() -> None:
    """A checkpoint's position means these samples; changing them breaks every run under way."""
    order = shuffled(np.arange(8), 1797, seed=0, epoch=0)
    assert order.tolist() == [335, 551, 180, 1474, 1275, 1091, 637, 1738]


def test_split_holds_every_sample_once() -> None:
    parts = split_indices(1797, (0.70, 0.15, 0.15), seed=0)
    assert [len(part) for part in parts] == [1258, 269, 270]
    assert sorted(np.concatenate(parts).tolist()) == list(range(1797))


@pytest.mark.parametrize("fractions", [(0.5, 0.6), (1.0, 0.0), (), (1.2, -0.2), (float("nan"), 1)])
def test_fractions_that_make_no_split_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        split_indices(100, fractions, seed=0)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        split_indices(3, (0.9, 0.05, 0.05), seed=0)
