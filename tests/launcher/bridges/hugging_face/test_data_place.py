"""Where a Trainer is in its data, and what it draws: the same again after a resume."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

pytest.importorskip("transformers", minversion="5.23")

from launcher.bridges.hugging_face.data_place import (
    DataPlace,
    generators_of,
    is_amid_generated,
    sampler_of,
)
from launcher.bridges.hugging_face.synced_reference import SyncedReference

BATCHES = 6


class Drawn(Dataset[torch.Tensor]):
    """Samples that are drawn where they are read, as a mask or a crop is."""

    def __len__(self) -> int:
        return 2 * BATCHES

    def __getitem__(self, index: int) -> torch.Tensor:
        return index + torch.rand(())


def ahead(loader: DataLoader[Any]) -> Iterator[Any]:
    """As accelerate's loaders do: the next batch is read before this one is given out."""
    batches = iter(loader)
    current = next(batches)
    for following in batches:
        yield current
        current = following
    yield current


def train(trainer: Any, place: DataPlace, loader: Any, *, done: int, until: int) -> list[Any]:
    """An epoch in small, as `Trainer._run_epoch` does it; each batch with a draw of the step."""
    asked = {
        "train_dataloader": loader,
        "epoch": 1,
        "epochs_trained": 1,
        "resume_from_checkpoint": "there" if done else None,
        "steps_trained_in_current_epoch": done,
    }
    asked = place.open(asked)
    skipped = DataLoader(loader.dataset, batch_sampler=Left(loader.batch_sampler, done))
    found: list[Any] = []
    for number, batch in enumerate(ahead(skipped), start=done):
        if number == done and done:
            trainer._load_rng_state("there")
        found.append((batch.tolist(), float(torch.rand(()))))
        trainer.state.global_step += 1
        if number + 1 == until:
            break
    return found


class Left:
    """As accelerate's SkipBatchSampler."""

    def __init__(self, sampler: Any, number: int) -> None:
        self._sampler, self._number = sampler, number

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self._sampler):
            if number >= self._number:
                yield batch


def trainer_of(state: torch.Tensor | None = None) -> Any:
    args = SimpleNamespace(device=torch.device("cpu"), gradient_accumulation_steps=1)
    load = (lambda _: torch.set_rng_state(state)) if state is not None else (lambda _: None)
    return SimpleNamespace(
        args=args, state=SimpleNamespace(global_step=BATCHES), _load_rng_state=load
    )


def loader_of(generator: torch.Generator | None) -> DataLoader[Any]:
    sampler: Any = RandomSampler(range(2 * BATCHES), generator=generator)
    return DataLoader(Drawn(), batch_size=2, sampler=sampler)


@pytest.mark.parametrize("at", [1, 3, BATCHES - 1])
@pytest.mark.parametrize("is_own", [False, True])
def test_the_order_and_what_is_read_ahead_are_drawn_again(
    at: int, is_own: bool, tmp_path: Path
) -> None:
    def made() -> torch.Generator | None:
        return torch.Generator().manual_seed(9) if is_own else None

    torch.manual_seed(3)
    whole_by = trainer_of()
    whole = train(whole_by, DataPlace(whole_by, 0), loader_of(made()), done=0, until=BATCHES)

    torch.manual_seed(3)
    before = trainer_of()
    place = DataPlace(before, 0)
    first = train(before, place, loader_of(made()), done=0, until=at)
    place.write(tmp_path)
    now = trainer_of(torch.get_rng_state())
    now.state.global_step += at

    torch.manual_seed(8)
    place = DataPlace(now, 0)
    place.resume(tmp_path, same_ranks=True)
    own = torch.Generator() if is_own else None
    assert first + train(now, place, loader_of(own), done=at, until=BATCHES) == whole


def test_a_loader_of_the_scripts_own_is_left_alone() -> None:
    class Ours:
        batch_sampler: Any = ()

        def __len__(self) -> int:
            return 1

    trainer, loader = trainer_of(), Ours()
    asked = {
        "train_dataloader": loader,
        "epoch": 0,
        "epochs_trained": 0,
        "resume_from_checkpoint": None,
        "steps_trained_in_current_epoch": 0,
    }
    assert DataPlace(trainer, 0).open(asked) == asked
    assert loader.batch_sampler == ()


def test_what_is_inside_a_loader_is_found() -> None:
    own = torch.Generator()
    assert generators_of(loader_of(own)) == [own]
    assert sampler_of(loader_of(own)) == "RandomSampler"
    assert generators_of(DataLoader(Drawn())) == []


@pytest.mark.parametrize(
    ("micro_step", "iterations", "is_amid"),
    [(0, 1, False), (3, 1, True), (4, 1, False), (4, 2, True)],
)
def test_a_step_may_be_amid_generated_samples(
    micro_step: int, iterations: int, is_amid: bool
) -> None:
    args = SimpleNamespace(steps_per_generation=4)
    given = SimpleNamespace(args=args, _step=micro_step, num_iterations=iterations)
    assert is_amid_generated(given) is is_amid
    assert not is_amid_generated(SimpleNamespace(args=SimpleNamespace()))


def test_a_reference_model_that_follows_is_in_the_checkpoint(tmp_path: Path) -> None:
    def trainer(*, is_synced: bool) -> Any:
        args = SimpleNamespace(sync_ref_model=is_synced)
        return SimpleNamespace(args=args, ref_model=torch.nn.Linear(2, 2))

    SyncedReference(trainer(is_synced=False), writes=True).write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    before, now = trainer(is_synced=True), trainer(is_synced=True)
    SyncedReference(before, writes=True).write(tmp_path)
    SyncedReference(now, writes=False).restore(tmp_path)
    assert torch.equal(before.ref_model.weight, now.ref_model.weight)
