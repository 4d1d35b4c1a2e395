import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from strategies import ConfigError
from strategies.parallel.untouched import refuse_untouched, untouched


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(3, 3)
        self.spare = nn.Linear(3, 3)

    def names(self) -> dict[int, str]:
        return {id(p): name for name, p in self.named_parameters()}


def test_what_the_loss_does_not_depend_on() -> None:
    model = Two()
    x = torch.ones(2, 3)
    assert untouched(model.used(x).sum(), model.names()) == ["spare.weight", "spare.bias"]
    assert untouched(model.spare(model.used(x)).sum(), model.names()) == []
    zero = 0 * sum(p.sum() for p in model.spare.parameters())
    assert untouched(model.used(x).sum() + zero, model.names()) == []


def test_a_loss_may_be_a_parameter_itself() -> None:
    one, other = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(3))
    assert untouched(one, {id(one): "one", id(other): "other"}) == ["other"]
    assert untouched(one, {id(one): "one"}) == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_is_not_mistaken(reentrant: bool) -> None:
    model = Two()
    x = torch.ones(2, 3, requires_grad=True)
    hidden = checkpoint(model.used, x, use_reentrant=reentrant)
    assert untouched(model.spare(hidden).sum(), model.names()) == []


def test_the_sentence_names_them() -> None:
    model = Two()
    with pytest.raises(ConfigError, match=r"step 3: .*spare.weight, spare.bias.*requires_grad"):
        refuse_untouched(model.used(torch.ones(1, 3)).sum(), model.names(), where="step 3")
