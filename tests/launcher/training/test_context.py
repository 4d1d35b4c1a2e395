"""What every part of a run is given does not change in its course."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from launcher.contract.environment import RankEnvironment
from launcher.contract.preemption import PreemptionFlag
from launcher.run_folder.folder import RunFolder
from launcher.training.context import RunContext
from launcher.training.start.opening import SCRIPTS_OWN, open_run
from strategies import Ranks, process_groups


@pytest.fixture
def alone() -> Iterator[Ranks]:
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        yield ranks


def opened(ranks: Ranks, folder: Path, **more: Any) -> RunContext:
    environment = RankEnvironment.from_environ({})
    flag = PreemptionFlag(None, None)
    return open_run(environment, ranks, flag, folder=RunFolder(folder), seed=3, **more)


def test_no_field_can_be_set(alone: Ranks, tmp_path: Path) -> None:
    context = opened(alone, tmp_path)
    for field in fields(context):
        with pytest.raises(FrozenInstanceError):
            setattr(context, field.name, None)


def test_starts_in_one_folder_are_counted(alone: Ranks, tmp_path: Path) -> None:
    first = opened(alone, tmp_path)
    first.folder.event("start", attempt=first.attempt, step=0)
    first.folder.close()
    described = first.folder.description()
    assert (first.attempt, described["attempt"]) == (1, 1)
    assert (described["strategy"], described["precision"], described["seed"]) == (
        "single",
        "fp32",
        3,
    )
    assert "loop" not in described


def test_a_loop_of_ones_own_has_its_own_precision(alone: Ranks, tmp_path: Path) -> None:
    context = opened(alone, tmp_path, own_loop=True)
    described = context.folder.description()
    assert described["loop"] == described["precision"] == SCRIPTS_OWN
    assert context.created_by("ddp")["precision"] == SCRIPTS_OWN
    assert context.describe("ddp") == f"ddp on 1 rank (cpu), {SCRIPTS_OWN}"
