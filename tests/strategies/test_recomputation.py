import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from strategies.recomputation import hold_statistics_in_recomputation


def test_a_recomputation_leaves_the_statistics_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3, requires_grad=True)
    expected = nn.BatchNorm1d(3)
    expected(x)
    for reentrant in (False, True):
        norm = nn.BatchNorm1d(3)
        hold_statistics_in_recomputation(norm)
        for layers in (nn.Sequential(norm), nn.Sequential(nn.Linear(3, 3), norm, nn.Tanh())):
            norm.reset_running_stats()
            if len(layers) > 1:
                nn.init.eye_(layers[0].weight)
                nn.init.zeros_(layers[0].bias)
            checkpoint(layers, x, use_reentrant=reentrant).square().sum().backward()
            torch.testing.assert_close(norm.running_mean, expected.running_mean)
            torch.testing.assert_close(norm.running_var, expected.running_var)
            assert norm.num_batches_tracked == 1
