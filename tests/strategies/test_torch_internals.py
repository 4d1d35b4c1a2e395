"""What fully_shard keeps of its parameters, in the shapes that releases of torch have had."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from strategies import ConfigError
from strategies.parallel import registry
from strategies.torch_internals import (
    all_gather,
    fsdp_parameters,
    missing_for_fsdp,
    reduce_scatter,
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


@pytest.mark.parametrize("has_newer_name", [True, False])
def test_collectives_of_one_tensor_go_by_the_name_of_which_no_torch_warns(
    monkeypatch: pytest.MonkeyPatch, has_newer_name: bool
) -> None:
    """With --exact on GPUs it would be each user's first line, from every rank."""
    called: list[str] = []
    for name in ("reduce_scatter", "all_gather"):
        older = {"reduce_scatter": "tensor", "all_gather": "into_tensor"}[name]
        for end in ("single", older):
            note = partial(lambda told, *_, **__: called.append(told), f"{name}_{end}")
            monkeypatch.setattr(dist, f"{name}_{end}", note, raising=False)
        if not has_newer_name:
            monkeypatch.delattr(dist, f"{name}_single")
    reduce_scatter(torch.zeros(1), torch.zeros(2), op=dist.ReduceOp.SUM)
    all_gather(torch.zeros(2), torch.zeros(1))
    if has_newer_name:
        assert called == ["reduce_scatter_single", "all_gather_single"]
    else:
        assert called == ["reduce_scatter_tensor", "all_gather_into_tensor"]
