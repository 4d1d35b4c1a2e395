"""One rank: many optimizers, one after the other, each undisturbed and resumed.

usage: rank.py OUT PHASE NAME ...

Rank 0 appends a line to OUT/PHASE.jsonl for each, when it is done with it.
"""

import json
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from checkpointing import CheckpointStore, save_checkpoint
from launcher.contract.environment import RankEnvironment
from strategies import (
    Blueprint,
    ConfigError,
    HostCommunicator,
    Ranks,
    collect_state,
    current_hyperparameters,
    precision_for,
    process_groups,
    restore_newest,
    seed_streams,
    strategy_class,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from optimizer_sweep.catalogue import factory_of

HALF, STEPS, MICRO_BATCHES = 3, 6, 2
LAST_BIT = 6e-8
"""Relative, of a float32."""
PHASES: dict[str, tuple[str, ...]] = {
    "one": ("single",),
    "two": ("ddp", "fsdp", "zero2"),
    "back": ("single",),
}
"""The strategies of each start of the ranks; `back` goes on from what `two` has saved."""


class Net(nn.Module):
    """Parameters of four, two and one dimensions, with rows that two ranks cannot share evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.norm = nn.LayerNorm(80)
        self.wide = nn.Linear(80, 64)  # optimizers of 8 bits begin at 4096 elements
        self.head = nn.Linear(64, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(F.gelu(self.wide(self.norm(F.gelu(self.conv(x)).flatten(1)))))
        return out


class Matrices(nn.Module):
    """For optimizers that take matrices alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(36, 15, bias=False)
        self.wide = nn.Linear(15, 288, bias=False)
        self.head = nn.Linear(288, 7, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.tanh(self.wide(torch.tanh(self.first(x.flatten(1))))))
        return out


class Sweep:
    """One optimizer under one strategy."""

    def __init__(self, ranks: Ranks, name: str, model: Callable[[], nn.Module], out: Path) -> None:
        self._ranks, self._name, self._model, self._out = ranks, name, model, out
        self._talk = HostCommunicator(ranks)

    def run(
        self, strategy: str, folder: Path, *, first: int, last: int, noise: bool = False
    ) -> None:
        """Train from the newest checkpoint in a folder, or anew, and save at two steps.

        Args:
            strategy: its name.
            folder: of checkpoints.
            first: step to begin at.
            last: step to end at.
            noise: whether the last bit of each gradient is another one.
        """
        torch.manual_seed(5)
        built = strategy_class(strategy)(
            Blueprint(
                model=self._model,
                optimizer=factory_of(self._name),
                precision=precision_for("fp32", self._ranks.device.type),
                max_grad_norm=None,
                seed=5,
                ranks=self._ranks,
            )
        )
        requested = current_hyperparameters(built.param_groups)
        store = CheckpointStore(folder)
        restored = restore_newest(built, store, self._talk, requested=requested)
        assert (0 if restored is None else restored.step) == first
        for step in range(first, last):
            self._step(built, step, noise=noise)
            if step + 1 in (HALF, last):
                self._save(built, store, step + 1, requested)

    def _step(self, built: Any, step: int, *, noise: bool) -> None:
        mine = range(self._ranks.rank, MICRO_BATCHES, self._ranks.world_size)
        for number in mine:
            draw = torch.Generator().manual_seed(step * MICRO_BATCHES + number)
            x = torch.randn(4, 1, 6, 6, generator=draw).to(self._ranks.device)
            y = torch.randint(7, (4,), generator=draw).to(self._ranks.device)
            built.micro_step(is_last=number == mine[-1])
            built.backward(F.cross_entropy(built.module(x), y, reduction="sum"))
        if noise:
            draw = torch.Generator().manual_seed(step)
            for parameter in built.module.parameters():
                signs = torch.randn(parameter.shape, generator=draw).sign()
                parameter.grad.mul_(1 + LAST_BIT * signs.to(parameter.device))
        seed_streams(1000 + step)
        built.step(4 * MICRO_BATCHES)

    def _save(self, built: Any, store: CheckpointStore, step: int, requested: Any) -> None:
        snapshot = collect_state(
            built, self._talk, step=step, state={}, created_by={}, requested=requested
        )
        save_checkpoint(store, snapshot, self._talk)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with CheckpointStore(folder).open(STEPS) as reader:
        return {
            spec.name: reader.read(spec.fqn, spec.key, 0, spec.numel)
            for spec in reader.manifest.specs()
            if spec.key == "fp32"
        }


def difference(folder: Path, other: Path) -> float:
    mine, theirs = weights(folder), weights(other)
    assert mine.keys() == theirs.keys()
    apart = max(float((mine[name] - theirs[name]).abs().max()) for name in mine)
    return apart if apart == apart else float("inf")


def halved(source: Path, target: Path) -> None:
    """Copy a folder of checkpoints up to the first half."""
    shutil.rmtree(target, ignore_errors=True)
    store = CheckpointStore(source)
    path = Path(str(store.path(HALF)))
    shutil.copytree(path, target / path.relative_to(source))


def trained(
    sweep: Sweep, ranks: Ranks, strategies: tuple[str, ...], out: Path, phase: str
) -> Iterator[dict[str, Any]]:
    """Train under each strategy; yield what came of it."""
    talk, truth = HostCommunicator(ranks), out / "single"
    accepted = [s for s in ("single", "ddp", "fsdp", "zero2") if (out / s).exists()]
    for strategy in strategies:
        folder, record = out / strategy, {"strategy": strategy, "phase": phase}
        try:
            if phase != "back":
                if ranks.is_coordinator:
                    shutil.rmtree(folder, ignore_errors=True)  # of a sweep that was broken off
                talk.all_gather(None)
                sweep.run(strategy, folder, first=0, last=STEPS)
                record["difference"] = difference(folder, truth)
            if phase == "one":
                noisy = out / f"{strategy}-noisy"
                sweep.run(strategy, noisy, first=0, last=STEPS, noise=True)
                record["noise"] = difference(noisy, truth)
                shutil.rmtree(noisy)
            origins = [strategy] if phase != "back" else []
            origins += [s for s in accepted if s != strategy][-1:]
            for origin in origins:
                target = out / f"{strategy}-from-{origin}"
                if ranks.is_coordinator:
                    halved(out / origin, target)
                talk.all_gather(None)
                sweep.run(strategy, target, first=HALF, last=STEPS)
                record[f"from {origin}"] = difference(target, truth)
            accepted.append(strategy)
        except ConfigError as error:
            if ranks.is_coordinator:
                has_trained = folder.exists()
                kind = "refused after step 0" if has_trained else "refused"
                record[kind] = str(error)
        yield record


def swept(ranks: Ranks, name: str, out: Path, phase: str) -> dict[str, Any]:
    """Train one optimizer in this phase; say what came of it, whatever it raises."""
    records: list[dict[str, Any]] = []
    try:
        model, why = model_for(name)
        if model is None:
            return {"optimizer": name, "not made": why}
        sweep = Sweep(ranks, name, model, out)
        records += trained(sweep, ranks, PHASES[phase], out, phase)
    except Exception as error:
        where = traceback.format_exc().splitlines()[-6:]
        return {
            "optimizer": name,
            "records": records,
            "failed": f"{type(error).__name__}: {error}",
            "where": where,
        }
    return {"optimizer": name, "records": records}


def model_for(name: str) -> tuple[Callable[[], nn.Module] | None, str]:
    """Return a model that the optimizer can be made for, or why there is none."""
    why = ""
    for model in (Net, Matrices):
        try:
            factory_of(name)(list(model().parameters()))
        except Exception as error:
            why = why or f"{type(error).__name__}: {error}"
        else:
            return model, ""
    return None, why


def main(out: Path, phase: str, names: list[str]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    environment = RankEnvironment.from_environ(os.environ)
    with process_groups(
        rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
    ) as ranks:
        for name in names:
            folder = out / name
            folder.mkdir(parents=True, exist_ok=True)
            record = swept(ranks, name, folder, phase)
            if ranks.is_coordinator:
                with (out / f"{phase}.jsonl").open("a") as file:
                    file.write(json.dumps(record) + "\n")
                if phase == list(PHASES)[-1]:
                    shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
