"""Several models and several optimizers of one script: what is saved, and what is refused."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from strategies import ConfigError, Ranks
from strategies.parallel.live.live import live_state
from strategies.parallel.live.several import LiveSeveral, rates_of
from strategies.parallel.state.saved_state import SavedState

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"), host_group=None)  # type: ignore[arg-type]
INPUTS = torch.randn(4, 3, generator=torch.Generator().manual_seed(5))


@dataclass
class Script:
    """What a script has built, and one step of its loop."""

    model: Any
    optimizer: Any
    step: Callable[[], None]
    names: set[str] = field(default_factory=set)


def net(seed: int, *layers: nn.Module) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 3), *layers)


def adam(*models: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for one in models for p in one.parameters()], lr=0.1)


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


def gan(seed: int) -> Script:
    made, judge = net(seed), net(seed + 1, nn.BatchNorm1d(3))
    opts = {"made": adam(made), "judge": torch.optim.SGD(judge.parameters(), 0.1, momentum=0.9)}

    def step() -> None:
        update(opts["judge"], judge(INPUTS).sum() - judge(made(INPUTS).detach()).sum())
        update(opts["made"], judge(made(INPUTS)).square().mean())

    names = {"made.0.weight", "judge.0.bias", "judge.1.running_mean"}
    return Script({"made": made, "judge": judge}, opts, step, names)


def two_optimizers(seed: int) -> Script:
    model = net(seed, nn.ReLU(), nn.Linear(3, 1))
    opts = [adam(model[0]), adam(model[2])]  # type: ignore[index]

    def step() -> None:
        for one in opts:
            update(one, model(INPUTS).square().sum())

    return Script(model, opts, step, {"0.weight", "2.bias"})


def shared_encoder(seed: int) -> Script:
    encoder = net(seed)
    actor = nn.Sequential(encoder, nn.Linear(3, 2))
    critic = nn.Sequential(encoder, nn.Linear(3, 1))
    opts = {"actor": adam(actor), "critic": adam(critic[1])}

    def step() -> None:
        update(opts["actor"], actor(INPUTS).square().sum())
        update(opts["critic"], critic(INPUTS).square().sum())

    return Script([actor, critic], opts, step, {"0.0.0.weight", "1.1.bias"})


def distillation(seed: int) -> Script:
    teacher, student = net(seed).requires_grad_(False), net(seed + 1)
    opt = adam(student)

    def step() -> None:
        update(opt, (teacher(INPUTS) - student(INPUTS)).square().sum())

    return Script({"teacher": teacher, "student": student}, opt, step, {"teacher.0.weight"})


def one_optimizer(seed: int) -> Script:
    first, second = net(seed), net(seed + 1)
    opt = adam(first, second)
    return Script([first, second], opt, lambda: update(opt, second(first(INPUTS)).square().sum()))


class Saved:
    """Fragments of one rank, as a source."""

    def __init__(self, state: Any) -> None:
        self._kept: dict[tuple[str, str], torch.Tensor] = {}
        specs: dict[str, dict[str, Any]] = {}
        for one in state.fragments(weights_only=False):
            self._kept[one.spec.fqn, one.spec.key] = one.data.detach().clone().reshape(-1)
            if one.spec.key not in ("fp32", "param", "buffer"):
                specs.setdefault(one.spec.fqn, {})[one.spec.key] = one.spec
        self.state = SavedState.of(specs, {"values": state.scalars()})
        self.extras = state.extras()

    def read(self, fqn: str, key: str, start: int, end: int) -> torch.Tensor:
        return self._kept[fqn, key][start:end]

    def read_whole(self, fqn: str, key: str, numel: int) -> torch.Tensor:
        return self._kept[fqn, key]


def values(script: Script) -> list[torch.Tensor]:
    models = script.model.values() if isinstance(script.model, dict) else script.model
    models = [models] if isinstance(models, nn.Module) else list(models)
    return [t.clone() for one in models for t in one.state_dict().values()]


@pytest.mark.parametrize(
    "build", [gan, two_optimizers, shared_encoder, distillation, one_optimizer]
)
def test_each_is_saved_and_resumes_bit_for_bit(build: Callable[[int], Script]) -> None:
    script = build(0)
    for _ in range(3):
        script.step()
    state = live_state(script.model, script.optimizer, ALONE)
    saved = Saved(state)
    specs = {spec.fqn for spec in state.weight_specs()}
    assert script.names <= specs
    assert len(state.group_names) == len(state.param_groups)
    script.step()
    other = build(10)
    other.step()  # state of its own, which must not stay
    resumed = live_state(other.model, other.optimizer, ALONE)
    resumed.load(saved, saved.state)
    resumed.put_back_extras(saved.extras)
    resumed.refresh()
    other.step()
    for a, b in zip(values(script), values(other), strict=True):
        assert torch.equal(a, b)


def test_what_it_says_of_itself() -> None:
    script = gan(0)
    state = live_state(script.model, script.optimizer, ALONE)
    assert isinstance(state, LiveSeveral)
    assert state.name == "single"
    assert state.optimizer_name == "judge: SGD, made: AdamW"
    assert state.optimizer_library == "torch"
    assert state.group_names[1] == ["judge.0.weight", "judge.0.bias", *_norm("judge.1")]
    assert list(state.optimizers) == list(script.optimizer.values())
    assert live_state(*_single(), ALONE).optimizer_name == "AdamW"


def test_the_rate_of_each_of_several_optimizers_has_its_name() -> None:
    script = gan(0)
    script.optimizer["judge"].param_groups[0]["lr"] = 0.25
    found = rates_of(live_state(script.model, script.optimizer, ALONE))
    assert found == {"lr": 0.1, "lr.made": 0.1, "lr.judge": 0.25}
    script = two_optimizers(0)
    named = rates_of(live_state(script.model, script.optimizer, ALONE))
    assert named == {"lr": 0.1, "lr.0": 0.1, "lr.1": 0.1}
    for one in (one_optimizer(0), Script(*_single(), lambda: None)):
        assert rates_of(live_state(one.model, one.optimizer, ALONE)) == {"lr": 0.1}


def _norm(name: str) -> list[str]:
    return [f"{name}.weight", f"{name}.bias"]


def _single() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = net(0)
    return model, adam(model)


def test_what_is_refused() -> None:
    first, second = net(0), net(1)

    def refused(model: Any, optimizer: Any, match: str) -> None:
        with pytest.raises(ConfigError, match=match):
            live_state(model, optimizer, ALONE)

    refused({"a.b": first}, adam(first), r"the name 'a\.b': parameters are saved as NAME\.weight")
    refused({}, adam(first), "model= is empty")
    refused([first, second], {}, "optimizer= is empty")
    refused({"a": first, "b": "no"}, adam(first), r"model\['b'\] is a str")
    refused([first], {"x": 3}, r"optimizer\['x'\] is a int")
    refused([first], [adam(second)], r'of optimizer "0" holds 2 of 2 parameters .* any model\'s')
    refused([first], [adam(first), adam(first)], r"is held by optimizer '0' and by optimizer '1'")
    refused([first, second], None, "no optimizer was passed for any model")
    refused("net", adam(first), "model= is a str; pass the torch.nn.Module, or several")


class _FabricModule(nn.Module):
    """As Lightning Fabric's setup returns a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._forward_module = model


def test_what_fabric_has_wrapped_has_the_names_of_what_is_inside() -> None:
    model = net(0)
    for wrapped in (_FabricModule(model), {"a": _FabricModule(model)}):
        state = live_state(wrapped, adam(model), ALONE)
        assert state.group_names[0][0] in ("0.weight", "a.0.weight")
