import pytest

from strategies.parallel.auto.available import shared


@pytest.mark.parametrize(
    ("free", "names", "shares"),
    [
        # A GPU for each rank, whatever number it has for that.
        ([80, 70, 80, 80], ["a", "b", "c", "d"], [80, 70, 80, 80]),
        ([80, 80, 60], ["a", "a", "b"], [40, 40, 60]),
        ([80, None], ["a", "b"], [80, None]),
        # The host's memory is in shares already.
        ([8, 8], [None, None], [8, 8]),
    ],
)
def test_ranks_share_the_gpu_that_they_both_have(free, names, shares):
    assert shared(free, names) == shares
