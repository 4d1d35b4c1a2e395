"""Which changes of an optimizer's groups a loop of one's own is refused for."""

import pytest
import torch
from torch import nn

from launcher.training.own_loop.own_changes import OwnChanges
from strategies import ConfigError


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.zeros(3))


def test_groups_that_are_empty_between_two_steps_are_filled_for_a_step() -> None:
    """As DeepSpeed's stage 3 does, one group after the other."""
    optimizer = torch.optim.AdamW([parameter()])
    optimizer.param_groups[0]["params"] = []
    changes = OwnChanges([optimizer], {})
    optimizer.param_groups[0]["params"] = [parameter()]
    changes.require_same_groups(optimizer)


def test_a_parameter_that_is_added_in_the_loop_is_refused() -> None:
    optimizer = torch.optim.AdamW([parameter()])
    changes = OwnChanges([optimizer], {})
    changes.require_same_groups(optimizer)
    optimizer.add_param_group({"params": [parameter()]})
    with pytest.raises(ConfigError, match=r"groups of \[1\] parameters before, \[1, 1\] now"):
        changes.require_same_groups(optimizer)
