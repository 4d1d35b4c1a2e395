from typing import Any, cast

import pytest
import torch
from torch import nn

from strategies import (
    Blueprint,
    BuildOptions,
    ConfigError,
    HostCommunicator,
    Ranks,
    choose_strategy,
    precision_for,
)
from strategies.parallel.auto import choose as choosing

MIB = 1024**2


class Alone:
    """The communicator of one rank."""

    def all_gather(self, value: Any) -> list[Any]:
        return [value]

    def broadcast(self, value: Any) -> Any:
        return value


def choice(
    monkeypatch: pytest.MonkeyPatch, free_bytes: int | None, *, ranks: int = 1, **options: Any
) -> Any:
    monkeypatch.setattr(choosing, "available_bytes", lambda *_: free_bytes)
    blueprint = Blueprint(
        model=lambda: nn.Linear(1000, 1000),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
        precision=precision_for("fp32", "cpu"),
        max_grad_norm=None,
        seed=1,
        ranks=Ranks(rank=0, world_size=ranks, device=torch.device("cpu"), host_group=None),  # type: ignore[arg-type]
        options=BuildOptions(**options),
    )
    communicator = cast(HostCommunicator, Alone())
    return choose_strategy(
        blueprint, communicator, batch=lambda: (torch.ones(2, 1000),), forward=None
    )


def test_a_model_that_one_rank_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = choice(monkeypatch, 100 * MIB)
    assert (found.strategy, found.table) == ("single", "")
    # 16 bytes of a million for state, 16 for the squares of the gradients.
    assert found.reason == "there is one rank: 30.5 MiB of 90.0 MiB that may be used"


def test_a_model_that_one_rank_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"does not fit into the 18\.0 MiB .* this one rank"):
        choice(monkeypatch, 20 * MIB)


def test_memory_that_nobody_knows_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = choice(monkeypatch, None)
    assert found.strategy == "single"
    assert "the memory of rank 0 is not known" in found.reason


def test_what_one_rank_cannot_do_is_left_to_single_to_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = choice(monkeypatch, 1, hybrid_shard=True)
    assert found.strategy == "single"


def test_on_a_cpu_there_is_nothing_to_offload_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="moves state from a GPU to the host"):
        choice(monkeypatch, 100 * MIB, offload=True)
    # Nor is it offered.
    with pytest.raises(ConfigError, match="does not fit") as caught:
        choice(monkeypatch, 20 * MIB)
    assert "offload" not in str(caught.value)


@pytest.mark.parametrize("version", ["0.19.8", None])
def test_zero_is_counted_only_where_deepspeed_is_installed(
    monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    monkeypatch.setattr(choosing, "installed", lambda: version)
    lines = choice(monkeypatch, 100 * MIB, ranks=2).table.splitlines()
    zero = [line.strip() for line in lines if line.strip().startswith("zero")]
    assert len(zero) == 3
    why = "skipped: it needs DeepSpeed 0.19.8 or newer; it is not installed"
    assert all(line.endswith(why) == (version is None) for line in zero)
