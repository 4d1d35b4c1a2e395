"""The frozen tensors of a run are written by its first save, whoever goes on with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpointing import CheckpointStore


def manifests(folder: Path) -> list[Any]:
    store = CheckpointStore(folder / "checkpoints")
    found = []
    for step in store.steps():
        with store.open(step) as reader:
            found.append(reader.manifest)
    return found


@pytest.mark.timeout(240)
def test_another_number_of_ranks_names_what_the_first_ones_wrote(
    launch: Callable[..., Any], run: Any, small: str
) -> None:
    command = ("--run-dir", str(run.path))
    first = launch("--nproc-per-node", "2", *command, "--strategy", "fsdp", small, "--epochs", "3")
    assert first.wait(100) == 0, first.stderr
    before = manifests(run.path)
    objects = before[0].objects
    assert len(objects) == 2  # of each rank
    assert all(manifest.objects == objects for manifest in before)

    second = launch("--nproc-per-node", "1", *command, "--strategy", "ddp", small, "--epochs", "5")
    assert second.wait(100) == 0, second.stderr
    after = manifests(run.path)
    assert after[0].step > before[0].step
    assert all(manifest.objects == objects for manifest in after)
    names = {f"objects/{path.name}" for path in (run.path / "checkpoints" / "objects").iterdir()}
    assert names == objects
    for one in (run.path / "best" / "objects").iterdir():  # the best weights' base is no copy
        assert one.samefile(run.path / "checkpoints" / "objects" / one.name)

    (run.path / "checkpoints" / sorted(objects)[0]).unlink()
    third = launch("--nproc-per-node", "1", *command, "--strategy", "ddp", small, "--epochs", "6")
    assert third.wait(100) not in (0, None)
    steps = ", ".join(str(manifest.step) for manifest in after)
    assert f"the checkpoints of steps {steps}; the newest checkpoint without it" in third.stderr
