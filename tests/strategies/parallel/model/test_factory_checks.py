"""What factories may return; what they may not is told in a sentence."""

import copy

import pytest
import torch
from torch import nn

from strategies import ConfigError
from strategies.parallel.model.factory_checks import made_model, made_optimizer, refuse_empty


def plain():
    return nn.Sequential(nn.Linear(2, 3), nn.Embedding(4, 3))


class Unmade:
    """Looks like a module that torch.compile made, without a compiler."""

    def __new__(cls):
        model = plain()
        model[0]._orig_mod = nn.Identity()
        return model


def warmed_up():
    model = nn.Sequential(nn.LazyLinear(3))
    model(torch.zeros(1, 2))
    return model


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (lambda: 3, "model= returned a int; it must return a torch.nn.Module"),
        (lambda: None, "model= returned a NoneType"),
        (lambda: nn.DataParallel(plain()), "a DataParallel, and the strategy spreads"),
        (Unmade, r"torch.compile made of 0, which renames .* compile_blocks=True"),
        (lambda: nn.Sequential(nn.Embedding(4, 3, sparse=True)), r"with sparse=True \(0\)\. Leave"),
        (lambda: nn.EmbeddingBag(4, 3, sparse=True), r"sparse=True \(the whole model\)"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), r"without shapes .*\(0.weight, 0.bias\)"),
        (lambda: nn.Sequential(nn.LazyBatchNorm1d()), r"without shapes .*0.running_mean"),
    ],
)
def test_models_that_cannot_be_trained_here(factory, says):
    with pytest.raises(ConfigError, match=says):
        made_model(factory)


@pytest.mark.parametrize("factory", [plain, warmed_up, lambda: copy.deepcopy(plain())])
def test_models_that_can(factory):
    assert isinstance(made_model(factory), nn.Module)


def test_a_compiled_model_is_known_by_what_torch_calls_it():
    with pytest.raises(ConfigError, match=r"torch.compile made of the whole model"):
        made_model(lambda: torch.compile(plain()))
    with pytest.raises(ConfigError, match=r"torch.compile made of 1"):
        made_model(lambda: nn.Sequential(plain(), torch.compile(plain())))


def test_parameters_without_elements_are_refused_where_they_cannot_be_cut():
    refuse_empty(plain().named_parameters(), "fsdp")
    with pytest.raises(ConfigError, match=r"elements \(weight\) cannot .* strategy=fsdp"):
        refuse_empty(nn.Linear(0, 3).named_parameters(), "fsdp")


class Around(torch.optim.Optimizer):
    """As Lookahead is often written: it has what an optimizer has, and is not made like one."""

    def __init__(self, inner):
        self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, {}


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (lambda p: Around(torch.optim.SGD(p, lr=0.1)), "a Around, whose __init__ does not call"),
        (lambda p: None, "optimizer= returned a NoneType; it must return a torch.optim.Optimizer"),
        (lambda p: torch.optim.AdamW, "returned a type"),
        (torch.optim.LBFGS, "a LBFGS, whose step computes the loss again"),
        (lambda p: torch.optim.AdamW([]), "cannot be made: optimizer got an empty parameter list"),
        (lambda p: torch.optim.AdamW(p, lr=-1.0), "cannot be made: Invalid learning rate: -1.0"),
        (
            lambda p: torch.optim.SGD(p, lr=float("nan")),
            "a SGD with a learning rate of nan",
        ),
        (
            lambda p: torch.optim.SGD(["weight"], lr=0.1),
            "cannot be made: optimizer can only optimi",
        ),
    ],
)
def test_optimizers_that_cannot_be_used(factory, says):
    with pytest.raises(ConfigError, match=says):
        made_optimizer(factory, plain().parameters())


def test_what_the_scripts_own_code_raises_is_left_as_it_is():
    def factory(parameters):
        raise ValueError("of the script")

    with pytest.raises(ValueError, match="of the script"):
        made_optimizer(factory, plain().parameters())


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "RAdam", "NAdam"])
def test_torchs_optimizers_that_step_on_gradients(name):
    made = made_optimizer(getattr(torch.optim, name), plain().parameters())
    assert type(made).__name__ == name


def test_what_is_around_an_optimizer_and_has_no_groups():
    class Around(torch.optim.Optimizer):
        def __init__(self, inner):
            self.inner = inner

    with pytest.raises(ConfigError, match="a Around, which has no parameter groups"):
        made_optimizer(lambda p: Around(torch.optim.SGD(p, lr=0.1)), [nn.Parameter(torch.ones(2))])
