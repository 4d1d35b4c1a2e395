"""What the trial does not carry out shows in the first step, before anything can be lost."""

import os
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from strategies import (
    Blueprint,
    ConfigError,
    Ranks,
    Strategy,
    precision_for,
    process_groups,
    strategy_class,
)

REAL = (40, 300)
"""More elements than a trial has."""


class Late(torch.optim.SGD):
    """Fails, or keeps what cannot be saved, for large parameters alone."""

    how = "fails"

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.numel() > 10_000 and self.how == "fails":
                    raise RuntimeError("no kernel for this shape.\nMore.")
                if p.numel() > 10_000 and self.how == "keeps":
                    self.state[p]["noise"] = object()
        super().step()


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    with process_groups(rank=0, local_rank=0, world_size=1) as found:
        yield found


def built(ranks: Ranks) -> Strategy:
    return strategy_class("single")(
        Blueprint(
            model=lambda: nn.Linear(REAL[1], REAL[0], bias=False),
            optimizer=lambda parameters: Late(parameters, lr=0.1),
            precision=precision_for("fp32", "cpu"),
            max_grad_norm=None,
            seed=0,
            ranks=ranks,
        )
    )


def stepped(strategy: Strategy) -> None:
    strategy.micro_step(is_last=True)
    strategy.backward(strategy.module(torch.ones(2, REAL[1])).sum())
    strategy.step(2.0)


def test_a_first_step_that_fails_is_told(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = built(ranks)
    says = r"first step of Late failed under strategy=single: RuntimeError: no kernel for this sh"
    with pytest.raises(ConfigError, match=says):
        stepped(strategy)
    monkeypatch.setattr(Late, "how", "works")
    stepped(strategy)
    monkeypatch.setattr(Late, "how", "fails")
    with pytest.raises(RuntimeError, match="no kernel"):
        stepped(strategy)  # later it is the optimizer's own failure


def test_what_the_first_step_makes_must_be_savable(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Late, "how", "keeps")
    with pytest.raises(ConfigError, match=r"Late keeps for weight .*: noise is a object"):
        stepped(built(ranks))
