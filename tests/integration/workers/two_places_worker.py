"""Runs features on a GPU that is pretended, and then on the host; rank 0 writes what was found.

usage: two_places_worker.py OUT STRATEGY,... CASE,...
"""

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import task  # type: ignore[import-not-found]
import torch
import torch.nn.functional as F
from pretended_deepspeed import places  # type: ignore[import-not-found]
from two_places import DEVICE, TwoPlaces  # type: ignore[import-not-found]

from launcher.contract.environment import RankEnvironment
from launcher.training.start import opening
from strategies import EMA, EarlyStopping, Parameters, Penalty, Ranks, metrics, process_groups
from strategies.boundary import notice_rounds
from strategies.data.batches import BatchPlan
from strategies.precision import precision_for

torch.set_num_threads(1)
out = Path(sys.argv[1])
STEPS, EVALUATED, SAVE_EVERY = 20, 12, 7
"""The first steps look for mistakes; after 16 the ranks compare a part of the weights."""
notice_rounds.FINISH_S = math.inf
environment = RankEnvironment.from_environ(os.environ)


def measure(model: Any, batch: Any) -> dict[str, Any]:
    tokens, labels, weights = batch
    scores = model(tokens)
    return {
        **task.measured(scores, labels, weights),
        "f1": metrics.f1(scores, labels, num_classes=13),
        "f1_weighted": metrics.f1(scores, labels, num_classes=13, weights=(weights + 0.1) / 3),
    }


class Poisoned(task.Samples):  # type: ignore[misc]
    """The data of steps 5 to 8 has weights that are not finite."""

    def __init__(self) -> None:
        super().__init__(1000)
        plan = BatchPlan(num_samples=1000, global_batch=20, micro_batch=4, epochs=100, seed=11)
        for step in range(5, 9):
            for indices in plan.samples(step, plan.turns(step, 0, 1)):
                self.weights[torch.from_numpy(indices)] = torch.inf


def foreach(parameters: Parameters) -> torch.optim.Optimizer:
    return torch.optim.NAdam(parameters, lr=1e-3, foreach=True)


def momentum(parameters: Parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, nesterov=True)


def fused(parameters: Parameters) -> torch.optim.Optimizer:
    """Counts its steps on the device."""
    return torch.optim.AdamW(parameters, lr=1e-3, fused=True)


def adafactor(parameters: Parameters) -> torch.optim.Optimizer:
    """Steps matrices whole: each by the rank that owns it."""
    return torch.optim.Adafactor(parameters, lr=1e-2)


def recipe_of(case: str) -> dict[str, Any]:
    recipes: dict[str, dict[str, Any]] = {
        "plain": {},
        "bf16": {"precision": "bf16"},
        "ema": {"ema": EMA(decay=0.9)},
        "penalty": {"penalty": Penalty(l1=1e-6, l2=1e-6)},
        "norms": {"model": task.Normed},
        "exact": {"exact": True, "ema": EMA(decay=0.9), "penalty": Penalty(l1=1e-6, l2=1e-6)},
        "exact-norms": {"exact": True, "model": task.Normed},
        "digests": {"digest_every": 1},
        "log": {"log_every": 1},
        "scalar": {"model": task.Scaled},
        "by-name": {"init": "by-name"},
        "unfreeze": {"unfreeze": {"blocks.0.*": 3}},
        "offload": {"offload": True},
        "fused": {"optimizer": fused},
        "foreach": {"optimizer": foreach},
        "momentum": {"optimizer": momentum},
        "adagrad": {"optimizer": task.adagrad},
        "adafactor": {"optimizer": adafactor},
        "fp16": {"precision": "fp16"},
        "recompute": {"checkpoint_blocks": "blocks.*"},
        "exact-recompute": {"exact": True, "model": task.Blocked, "checkpoint_blocks": "blocks.*"},
        "rollback": {"train": Poisoned(), "save_every": "2 steps", "max_skipped": 3},
    }
    return recipes[case]


def run(ranks: Ranks, world: TwoPlaces | None, strategy: str, case: str) -> dict[str, Any]:
    """Train, save, leave, resume and train on; return the weights and what was waited for."""
    waits: Counter[str] = Counter() if world is None else world.waits
    told: dict[str, Any] = {"steps": [], "metrics": {}, "evaluation": {}}

    def go(job: Any, last: int) -> None:
        for step in job:
            for tokens, labels, weights in step:
                losses = F.cross_entropy(job.model(tokens), labels, reduction="none")
                step.backward((losses * weights).sum(), count=weights.sum())
            told["steps"].append(dict(waits))
            waits.clear()
            if step.number == EVALUATED:
                told["metrics"] = step.evaluate(task.Samples(40), measure)
                told["evaluation"] = dict(waits)
                waits.clear()
            if step.number + 1 == last:
                break

    folder = out / f"{strategy}-{case}-{world is None}"
    for last in (STEPS - 2, STEPS):
        options: dict[str, Any] = {"save_every": f"{SAVE_EVERY} steps", **recipe_of(case)}
        if world is None:
            options.pop("offload", None)  # there it is
        job = task.make_job(ranks, strategy, folder, **options)
        waits.clear()
        go(job, last)
        job.run.lockstep.stay()
    told["weights"] = dict(weights_of(job))
    return told


def run_to_the_end(ranks: Ranks, world: TwoPlaces | None, strategy: str) -> dict[str, Any]:
    """Stop early, hold the best weights, measure and export them."""
    job = task.make_job(
        ranks,
        strategy,
        out / f"{strategy}-ending-{world is None}",
        evaluate_every="2 steps",
        stop=EarlyStopping("val/hardly", mode="min", patience=2),
        measure=measure,
        ema=EMA(decay=0.9),
    )
    found: dict[str, float] = {}
    for step in job:
        for tokens, labels, weights in step:
            losses = F.cross_entropy(job.model(tokens), labels, reduction="none")
            step.backward((losses * weights).sum(), count=weights.sum())
        if step.evaluation_due:
            value = abs(step.number - 5.0)  # the best is neither the first nor the last
            step.evaluate(
                task.Samples(40),
                lambda model, batch, value=value: {
                    **measure(model, batch),
                    "hardly": torch.full_like(batch[2], value),
                },
            )
    weights = dict(weights_of(job))
    for which in ("best", "last", "ema"):
        tested = job.test(task.Samples(30), which=which, name=which)
        found |= {f"{which}/{name}": value for name, value in tested.items()}
        job.export(which=which)
    return {"steps": [], "metrics": found, "evaluation": {}, "weights": weights}


def with_fp16(name: str, device_type: str) -> Any:
    """The host has its kernels too."""
    return precision_for(name, "cuda")


def weights_of(job: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if layout := getattr(job._strategy, "_layout", None):  # ZeRO's masters on this rank
        yield from ((p.fqn, p.of(p.buffer).detach().clone().cpu()) for p in layout.pieces())
        return
    for name, one in job._strategy._model.named_parameters():
        yield name, getattr(one, "full_tensor", lambda one=one: one)().detach().clone().cpu()


def forget_accelerator(strategy: str) -> None:
    """Let the next Accelerator of this process be on another device."""
    if strategy == "accelerate":
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


def compared(ranks: Ranks, strategy: str, case: str) -> dict[str, Any]:
    one: Any = partial(run, case=case) if case != "ending" else run_to_the_end
    forget_accelerator(strategy)
    with places(strategy) as world:
        found = one(replace(ranks, device=DEVICE), world, strategy)
    setattr(opening, "precision_for", with_fp16)  # noqa: B010
    forget_accelerator(strategy)
    truth = one(ranks, None, strategy)
    setattr(opening, "precision_for", precision_for)  # noqa: B010
    assert truth["metrics"].keys() == found["metrics"].keys()
    pairs = [(found["weights"][name], weight) for name, weight in truth["weights"].items()]
    differs = [abs(value - truth["metrics"][name]) for name, value in found["metrics"].items()]
    return {
        "weights": max(float((mine - other).abs().max()) for mine, other in pairs),
        "metrics": max(differs),
        "steps": found["steps"],
        "evaluation": found["evaluation"],
    }


with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    told = {}
    for strategy, case in product(sys.argv[2].split(","), sys.argv[3].split(",")):
        told[f"{strategy} {case}"] = compared(ranks, strategy, case)
    if ranks.is_coordinator:
        (out / "found.json").write_text(json.dumps(told))
