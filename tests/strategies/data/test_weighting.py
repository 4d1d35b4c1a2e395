import pytest
import torch

from strategies import ConfigError, weighted


def test_the_weighted_mean_is_the_same_however_it_is_cut() -> None:
    losses = torch.arange(1.0, 13.0).reshape(6, 2)
    weights = torch.tensor([0.0, 1.0, 0.5, 2.0, 0.0, 3.0])
    total, count = weighted(losses, weights)
    parts = [weighted(losses[a:b], weights[a:b]) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert sum(float(t) for t, _ in parts) == pytest.approx(float(total))
    assert sum(float(c) for _, c in parts) == float(count) == 13.0
    mean = (losses * weights[:, None]).sum() / (2 * weights.sum())
    assert float(total / count) == pytest.approx(float(mean))


def test_gradients_flow_into_the_losses_alone() -> None:
    losses = torch.ones(3, requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 0.0], requires_grad=True)
    weighted(losses, weights)[0].backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == [1.0, 2.0, 0.0]
    assert weights.grad is None


@pytest.mark.parametrize(
    ("losses", "weights", "words"),
    [
        (torch.tensor(1.0), torch.ones(1), "single loss"),
        (torch.ones(3, 2), torch.ones(2), "\\(3, 2\\).*\\(2,\\).*\\(3,\\)"),
        (torch.ones(3), torch.tensor([1.0, -0.5, -1.0]), "2 of 3 weights.*first -0.5 at 1"),
        (torch.ones(2, 2), torch.tensor([[1.0, 1.0], [torch.inf, 1.0]]), "1 of 4.*inf at 2"),
        (torch.ones(1), torch.tensor([torch.nan]), "1 of 1.*nan at 0"),
    ],
)
def test_what_does_not_fit(losses: torch.Tensor, weights: torch.Tensor, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        weighted(losses, weights)
