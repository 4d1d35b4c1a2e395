"""What fully_shard keeps of its parameters, in the shapes that releases of torch have had."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from strategies import ConfigError
from strategies.parallel import registry
from strategies.torch_internals import (
    fsdp_parameters,
    missing_for_fsdp,
    unsharded,
    watch_compiling,
)


class Account:
    """As FSDPParam: the attribute of the gathered parameter is declared, and set later."""

    _unsharded_param: torch.Tensor

    def __init__(self, name: str) -> None:
        self.name, self.sharded_param = name, torch.zeros(1)


def group(*names: str) -> SimpleNamespace:
    return SimpleNamespace(fsdp_params=[Account(name) for name in names])


class SeveralGroups:
    """From torch 2.12 on."""

    def __init__(self, *groups: SimpleNamespace) -> None:
        self._fsdp_param_groups = list(groups)

    @property
    def _fsdp_param_group(self) -> SimpleNamespace | None:
        if len(self._fsdp_param_groups) > 1:
            raise ValueError("several groups")
        return next(iter(self._fsdp_param_groups), None)


def one_group(of: SimpleNamespace | None) -> SimpleNamespace:
    """As in torch 2.11."""
    return SimpleNamespace(_fsdp_param_group=of)


def module(state: object) -> Any:
    found: Any = nn.Module()
    found._get_fsdp_state = lambda: state
    return found


@pytest.mark.parametrize(
    ("state", "names"),
    [
        (one_group(group("a", "b")), ["a", "b"]),
        (one_group(None), []),
        (SeveralGroups(), []),
        (SeveralGroups(group("a")), ["a"]),
        (SeveralGroups(group("a"), group("b", "c")), ["a", "b", "c"]),
    ],
)
def test_parameters_are_found_in_every_shape(state: object, names: list[str]) -> None:
    found = fsdp_parameters(module(state))
    assert [one.name for one in found] == names
    assert missing_for_fsdp([module(state)]) is None
    assert all(unsharded(one) is None for one in found)


class Undeclared:
    sharded_param = torch.zeros(1)


@pytest.mark.parametrize(
    ("state", "missing"),
    [
        (SimpleNamespace(groups=[]), "SimpleNamespace._fsdp_param_group"),
        (one_group(SimpleNamespace()), "SimpleNamespace.fsdp_params"),
        (one_group(SimpleNamespace(fsdp_params=[object()])), "object.sharded_param"),
        (one_group(SimpleNamespace(fsdp_params=[Undeclared()])), "Undeclared._unsharded_param"),
    ],
)
def test_what_another_torch_lacks_is_named(state: object, missing: str) -> None:
    assert missing_for_fsdp([module(state)]) == missing


def test_a_strategy_that_cannot_be_imported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, package: str) -> None:
        raise ImportError("cannot import name 'fully_shard' from 'torch.distributed.fsdp'")

    monkeypatch.setattr(registry, "import_module", fail)
    with pytest.raises(ConfigError, match=r"strategy=fsdp cannot be loaded with torch .*fully_sh"):
        registry.strategy_class("fsdp")


def test_each_compilation_is_a_sign_that_a_rank_gets_on() -> None:
    seen: list[int] = []
    watch_compiling(lambda: seen.append(1))
    twice = torch.compile(lambda x: x * 2, backend="eager")
    twice(torch.ones(2))
    assert len(seen) >= 2
    before = len(seen)
    twice(torch.ones(2))
    assert len(seen) == before
