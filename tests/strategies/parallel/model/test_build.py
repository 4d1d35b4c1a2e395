import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from strategies import Blueprint, BuildOptions, ConfigError, Ranks, precision_for
from strategies.parallel.model.build import build_deferred, build_model

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"), host_group=None)  # type: ignore[arg-type]


def blueprint(model: Callable[[], nn.Module], *, seed: int = 3) -> Blueprint:
    return Blueprint(
        model=model,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        precision=precision_for("fp32", "cpu"),
        max_grad_norm=None,
        seed=seed,
        ranks=ALONE,
        options=BuildOptions(init="by-name"),
    )


class Everything(nn.Module):
    """What constructors do: custom and library initialisation, constants, views, copies, casts."""

    def __init__(self, *, extra: bool = False) -> None:
        super().__init__()
        if extra:
            self.extra = nn.Linear(7, 7)
        self.rates = [rate.item() for rate in torch.linspace(0, 0.3, 4)]
        self.linear = nn.Linear(300, 200)
        self.orthogonal = nn.Parameter(nn.init.orthogonal_(torch.empty(6, 6)))
        self.truncated = nn.Parameter(nn.init.trunc_normal_(torch.empty(60, 60), std=0.02, a=-0.03))
        drawn = torch.randn(5)
        self.one, self.two = nn.Parameter(drawn.clone()), nn.Parameter(drawn * 2)
        self.embed = nn.Embedding(5, 3, padding_idx=2)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.LayerNorm(4)
        with torch.no_grad():
            self.norm.weight[1:3] = torch.tensor([5.0, 6.0])
        self.from_numpy = nn.Parameter(torch.from_numpy(np.arange(3, dtype=np.float32)))
        self.small = nn.Linear(2, 2).to(torch.bfloat16)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        exponents = torch.arange(0, 8, 2).float() / 8
        self.register_buffer("frequencies", 1.0 / (10_000**exponents), persistent=False)
        self.register_buffer("mask", torch.tril(torch.ones(4, 4, dtype=torch.bool)))
        self.register_buffer("gain", torch.tensor(1.5))


def test_what_a_constructor_does_is_done() -> None:
    model = build_model(blueprint(Everything))
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    assert model.rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    bound = 1 / math.sqrt(300)
    assert float(model.linear.weight.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(model.linear.weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    torch.testing.assert_close(model.orthogonal @ model.orthogonal.T, torch.eye(6))
    assert -0.03 <= float(model.truncated.min()) < -0.028
    assert torch.equal(model.two, model.one * 2)
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.embed.weight[2], torch.zeros(3))
    assert model.norm.weight.tolist() == [1.0, 5.0, 6.0, 1.0]
    assert model.from_numpy.tolist() == [0.0, 1.0, 2.0]
    assert model.small.weight.dtype == torch.bfloat16
    first, second = model.encoder.layers
    assert torch.equal(first.linear1.weight, second.linear1.weight)
    torch.testing.assert_close(model.frequencies, torch.tensor([1.0, 0.1, 0.01, 0.001]))
    assert model.mask.sum() == 10
    assert float(model.gain) == 1.5


def test_a_value_depends_on_seed_and_name_alone() -> None:
    first = build_model(blueprint(Everything)).state_dict()
    torch.manual_seed(99)
    again = build_model(blueprint(Everything)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    more = build_model(blueprint(lambda: Everything(extra=True))).state_dict()
    # What the constructor itself looks at is drawn while it runs, before anything has a name.
    assert [n for n in first if not torch.equal(first[n], more[n])] == ["truncated"]
    other = build_model(blueprint(Everything, seed=4)).state_dict()
    assert not torch.equal(first["linear.weight"], other["linear.weight"])
    assert not torch.equal(first["linear.bias"], first["linear.weight"].flatten()[:200])


def test_the_users_random_stream_is_left_alone() -> None:
    deferred = build_deferred(blueprint(lambda: nn.Linear(3, 3)))
    before = torch.get_rng_state()
    deferred.value("weight")
    assert torch.equal(torch.get_rng_state(), before)


class Unfilled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3))


class OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(1)))


class ThroughNumpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.copy = self.weight.detach().numpy()


class Mistaken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        raise RuntimeError("the user's own mistake")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Unfilled, "nothing fills weight"),
        (OwnGenerator, "a generator of its own"),
        (ThroughNumpy, "its factory needs values"),
    ],
)
def test_what_cannot_be_deferred_is_refused(model: type[nn.Module], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"{sentence}.*as-built"):
        build_model(blueprint(model))


def test_the_users_mistake_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="the user's own mistake"):
        build_model(blueprint(Mistaken))
