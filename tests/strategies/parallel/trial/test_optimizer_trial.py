"""Which optimizers are the same whole, resumed and cut; decided without ranks."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strategies import ConfigError, Parameters
from strategies.parallel.trial.owned import OwnedOrFlat, OwnedOrRows
from strategies.parallel.trial.stepping import Flat, FlatEach, FlatInPieces, Rows
from strategies.parallel.trial.trial import Cut, made_after_trial, tried_optimizer

NAMED = [
    ("gain", nn.Parameter(torch.ones(()))),
    ("embed.weight", nn.Parameter(torch.empty(300, 64, device="meta"))),
    ("conv.weight", nn.Parameter(torch.ones(5, 3, 3, 3))),
    ("conv.bias", nn.Parameter(torch.ones(5))),
    ("head.weight", nn.Parameter(torch.ones(1, 7))),
]
CUTS = {"whole": None, "rows": Rows, "flat": Flat, "each": FlatEach, "pieces": FlatInPieces}
Factory = Callable[[Parameters], torch.optim.Optimizer]


def tried(factory: Factory, cut: str, named: Any = NAMED) -> torch.optim.Optimizer:
    kind: Any = CUTS[cut]
    seen = tried_optimizer(
        factory,
        named,
        device=torch.device("cpu"),
        cut=None if kind is None else Cut(strategy="cutting", rank=kind),
    )
    return made_after_trial(factory, named, seen)[0]


def refusal(factory: Factory, cut: str) -> str | None:
    try:
        tried(factory, cut)
    except ConfigError as error:
        return str(error)
    return None


class Own(torch.optim.Optimizer):
    """Steps by a rule over (optimizer, group, parameter, state)."""

    def __init__(self, params: Any, rule: Any, **more: Any) -> None:
        super().__init__(params, dict(lr=0.1, **more))
        self.rule = rule

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if self.rule is by_count:
                group["k"] = group.get("k", 0) + 1
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * self.rule(self, group, p, self.state[p]))


def own(rule: Any, **more: Any) -> Factory:
    return lambda parameters: Own(parameters, rule, **more)


def two_groups(parameters: Parameters) -> list[dict[str, Any]]:
    named = dict(parameters.named())
    gain = named.pop("gain")
    return [{"params": list(named.values())}, {"params": [gain], "weight_decay": 0.0}]


def by_count(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    return p.grad / group["k"]


def low_momentum(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    buffer = state.setdefault("buffer", torch.zeros_like(p, dtype=torch.bfloat16))
    state["n"] = state.get("n", torch.zeros((), dtype=torch.int64)).add_(1)
    buffer.mul_(0.9).add_(p.grad.bfloat16())
    return buffer.float() / float(state["n"])


def by_dimensions(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    return p.grad / p.grad.norm() if p.ndim == 2 else p.grad


def by_rows(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    rows = p.grad.reshape(len(p), -1) if p.ndim else p.grad.reshape(1, 1)
    second = state.setdefault("row", torch.zeros(len(rows)))
    second.lerp_(rows.square().mean(1), 0.1)
    return (rows / (second.sqrt()[:, None] + 1e-8)).reshape(p.shape)


def by_total(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    group["total"] = group.get("total", 0.0) + float(p.grad.square().sum())
    return p.grad


def noisy(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    return p.grad + torch.randn_like(p)


def noisy_elsewhere(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    return p.grad * np.random.rand()


def averaged(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    return state.setdefault("ema", torch.zeros_like(p)).lerp_(p.grad, 0.1)


def counted_outside(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    optimizer.calls = getattr(optimizer, "calls", 0) + 1
    return p.grad / optimizer.calls


def prepared(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    if not getattr(optimizer, "is_ready", False):
        optimizer.is_ready, optimizer.plan = True, Hidden()
    return p.grad * (1.0 + optimizer.plan.value)


class Hidden:
    value = 0.0


def hidden(parameters: Parameters) -> torch.optim.Optimizer:
    def rule(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
        optimizer.hidden.value += 1.0
        return p.grad / optimizer.hidden.value

    made = Own(parameters, rule)
    made.hidden = Hidden()
    return made


def shared(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    optimizer.state["all"] = optimizer.state.get("all", 0) + 1
    return p.grad / len(optimizer.param_groups)


def failing(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    raise RuntimeError("not in train mode")


MATRICES = [(name, p) for name, p in NAMED if p.ndim == 2]
ADAMW = partial(torch.optim.AdamW, lr=0.1)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    "factory",
    [
        ADAMW,
        lambda p: torch.optim.AdamW(p, lr=0.0),
        lambda p: torch.optim.AdamW(two_groups(p), lr=torch.tensor(0.1), foreach=False),
        lambda p: torch.optim.SGD(two_groups(p), lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Rprop(p, lr=0.1),
        lambda p: torch.optim.ASGD(p, lr=0.1),
        own(prepared),
        own(low_momentum, growth_rate=math.inf, mode=None, scale=math.sqrt),
    ],
)
def test_elementwise_optimizers_may_be_cut(factory: Factory, cut: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    made = tried(factory, cut)
    assert sum(len(group["params"]) for group in made.param_groups) == len(NAMED)
    assert not made.state
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (own(by_dimensions), {"rows", "flat", "each", "pieces"}),
        (own(by_rows), {"rows", "flat", "each", "pieces"}),
        (own(by_total), {"rows", "flat", "each", "pieces"}),
        (own(noisy), {"rows", "flat", "each", "pieces"}),
        (own(noisy_elsewhere), {"rows", "flat", "each", "pieces"}),
        (lambda p: torch.optim.Adafactor(p, lr=0.1), {"rows", "flat", "each", "pieces"}),
        (lambda p: torch.optim.Adagrad(p, lr=0.1), {"flat", "each", "pieces"}),
        (own(by_count), {"pieces"}),
        (lambda p: Own(two_groups(p), by_count), {"each", "pieces"}),
        (own(counted_outside), {"flat", "each", "pieces"}),
        (own(shared), {"flat", "each", "pieces"}),
    ],
)
def test_what_is_another_optimizer_where_it_is_cut_is_refused(
    factory: Factory, says: set[str]
) -> None:
    told = {cut: refusal(factory, cut) for cut in CUTS}
    assert {cut for cut, sentence in told.items() if sentence} == says
    for sentence in filter(None, told.values()):
        assert "gives another result if parameters are split, as under strategy=cutting" in sentence
        assert "Use --strategy ddp (single on one rank)" in sentence


def test_matrices_alone() -> None:
    muon = partial(torch.optim.Muon, lr=0.1)
    assert tried(muon, "whole", MATRICES)
    with pytest.raises(ConfigError, match=r"Muon gives another result .* 2 dimensions"):
        tried(muon, "rows", MATRICES)
    with pytest.raises(ConfigError, match="step 0 fails with ValueError: Param gradient must"):
        tried(muon, "flat", MATRICES)


@pytest.mark.parametrize("cut", ["whole", "rows"])
def test_what_does_not_come_back_from_a_checkpoint_is_refused(cut: str) -> None:
    with pytest.raises(ConfigError, match="Own has state that no checkpoint holds"):
        tried(hidden, cut)


def test_a_step_that_fails_is_told_before_the_training() -> None:
    with pytest.raises(
        ConfigError,
        match=r"under any strategy: .*step 0 fails with RuntimeError: not in train mode\.",
    ):
        tried(own(failing), "whole")


def test_a_state_that_would_be_taken_for_the_average_of_the_weights() -> None:
    with pytest.raises(ConfigError, match="it keeps a state named ema"):
        tried(own(averaged), "whole")


def test_groups_by_size_cannot_be_tried_on_small_parameters() -> None:
    def factory(parameters: Parameters) -> torch.optim.Optimizer:
        large = [p for p in parameters if p.numel() > 10_000]
        rest = [p for p in parameters if p.numel() <= 10_000]
        groups = [{"params": large, "weight_decay": 0.1}, {"params": rest}]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.1)

    assert len(tried(factory, "whole").param_groups) == 2
    with pytest.raises(ConfigError, match="groups them differently from those of the model"):
        tried(factory, "flat")


def test_a_factory_that_needs_the_model_is_not_tried() -> None:
    def factory(parameters: Parameters) -> torch.optim.Optimizer:
        assert parameters[1].shape == (300, 64), "the embedding"
        return torch.optim.AdamW(parameters, lr=0.1)

    assert tried(factory, "whole").param_groups
    with pytest.raises(ConfigError, match=r"cannot be made for them \(AssertionError: the embed"):
        tried(factory, "rows")


def test_what_the_factory_prints_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    def factory(parameters: Parameters) -> torch.optim.Optimizer:
        print("decayed", len(parameters))
        return torch.optim.AdamW(parameters, lr=0.1)

    tried(factory, "each")
    assert capsys.readouterr().out == f"decayed {len(NAMED)}\n"


OWNED = {"rows": (Rows, OwnedOrRows), "flat": (Flat, OwnedOrFlat), "each": (FlatEach, OwnedOrFlat)}
ALL = {name for name, _ in NAMED}


def kept_whole(factory: Factory, cut: str, named: Any = NAMED) -> set[str] | None:
    """Return what is stepped whole; None: all is cut as the strategy cuts it."""
    rank, owned = OWNED[cut]
    seen = tried_optimizer(
        factory,
        named,
        device=torch.device("cpu"),
        cut=Cut(strategy="cutting", rank=rank, owned=owned),
    )
    return None if seen.whole is None else set(seen.whole)


def by_own_norm(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
    state["second"] = 0.9 * state.get("second", 0.0) + float(p.grad.square().sum())
    return p.grad / state["second"]


def muon_and_adamw(parameters: Parameters) -> torch.optim.Optimizer:
    """One class for both, as is usual: a flag of each group tells."""

    def rule(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
        momentum = state.setdefault("momentum", torch.zeros_like(p)).lerp_(p.grad, 0.1)
        if group["use_muon"]:
            u, _, v = torch.linalg.svd(momentum.float(), full_matrices=False)
            return u @ v
        return momentum.sign()

    matrices = [p for name, p in parameters.named() if name == "embed.weight"]
    rest = [p for name, p in parameters.named() if name != "embed.weight"]
    return Own([{"params": matrices, "use_muon": True}, {"params": rest, "use_muon": False}], rule)


@pytest.mark.parametrize("cut", OWNED)
@pytest.mark.parametrize(
    ("factory", "whole"),
    [
        (ADAMW, None),
        (own(low_momentum), None),
        (muon_and_adamw, {"embed.weight"}),
        (own(by_dimensions), {"embed.weight", "head.weight", "conv.weight"}),
        (own(by_rows), ALL - {"gain", "conv.bias"}),
        (own(by_own_norm), ALL - {"gain"}),
        (lambda p: torch.optim.Adafactor(p, lr=0.1), ALL - {"gain"}),
    ],
)
def test_what_cannot_be_cut_is_stepped_whole_by_one_rank(
    factory: Factory, whole: set[str] | None, cut: str
) -> None:
    found = kept_whole(factory, cut)
    assert (found is None) == (whole is None)
    if whole is not None and found is not None:
        # Of no dimension, it is one element: whole anyhow under fsdp, but flat under ZeRO.
        assert found - {"gain"} == whole


@pytest.mark.parametrize("cut", OWNED)
def test_what_keeps_a_matrix_for_each_side_makes_none_for_a_flat_part(cut: str) -> None:
    """As Shampoo: of a flat part of 4,000 elements, the root of its matrix would take minutes."""
    sides = []

    def by_sides(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
        update = p.grad
        for axis, side in enumerate(p.shape):
            sides.append(side)
            rows = p.grad.transpose(0, axis).reshape(side, -1)
            kept = state.setdefault(f"side_{axis}", torch.zeros(side, side))
            update = update / kept.add_(rows @ rows.T).trace()
        return update

    found = kept_whole(own(by_sides), cut)
    assert found is not None
    assert found - {"gain"} == ALL - {"gain"}
    assert max(sides) <= 75  # of embed.weight, which is (75, 64) in a trial


@pytest.mark.parametrize("cut", OWNED)
@pytest.mark.parametrize("rule", [by_total, noisy, noisy_elsewhere])
def test_what_looks_at_all_parameters_together_is_refused_even_so(rule: Any, cut: str) -> None:
    with pytest.raises(ConfigError, match="gives another result if parameters are split") as told:
        kept_whole(own(rule), cut)
    assert ("stepped whole by one rank" in str(told.value)) == (rule is by_total)


@pytest.mark.parametrize("cut", OWNED)
def test_muon_is_stepped_whole(cut: str) -> None:
    names = {name for name, _ in MATRICES}
    assert kept_whole(partial(torch.optim.Muon, lr=0.1), cut, MATRICES) == names


@pytest.mark.parametrize("cut", OWNED)
def test_what_keeps_a_matrix_for_each_dimension_makes_none_of_thousands_of_rows(cut: str) -> None:
    """As Shampoo: one decomposition for a flat tensor of 16,000 elements takes minutes."""
    rows: list[int] = []

    def rule(optimizer: Any, group: Any, p: Any, state: Any) -> Any:
        step = p.grad
        for number, size in enumerate(p.shape):
            rows.append(size)
            if size > 1000:
                return step
            unfolded = p.grad.movedim(number, 0).reshape(size, -1)
            kept = state.setdefault(f"matrix_{number}", torch.zeros(size, size))
            kept.add_(unfolded @ unfolded.t())
            step = (torch.tensordot(kept, step.movedim(number, 0), 1)).movedim(0, number)
        return step / step.abs().max()

    assert kept_whole(own(rule), cut) is not None
    assert max(rows) <= 300
