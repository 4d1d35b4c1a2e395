"""What a run would need on machines that are not there; see `relaunch plan`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NoReturn

import torch

from checkpointing import JSON
from strategies.parallel.auto.choose import plan_strategy
from strategies.parallel.auto.estimate import Choice
from strategies.parallel.auto.memory_model import MASTER_BYTES, ModelSizes

from ...contract.planned_machines import PlannedMachines
from ..context import RunContext
from ..recipe.recipe import Recipe
from .strategy_choice import AUTO, first_batch


def leave_plan(run: RunContext, recipe: Recipe, machines: PlannedMachines) -> NoReturn:
    """Write what was found, and end the script.

    Raises:
        ConfigError: no strategy fits, or nothing could be measured.
        SystemExit: always.
    """
    blueprint = recipe.blueprint(run, run.asked_strategy)
    ranks = replace(blueprint.ranks, world_size=machines.ranks, device=torch.device("cuda", 0))
    options = replace(blueprint.options, local_world_size=machines.ranks_per_node)
    asked = run.environment.run.strategy
    choice, sizes = plan_strategy(
        replace(blueprint, ranks=ranks, options=options),
        batch=first_batch(recipe, run.seed),
        forward=recipe.forward,
        accumulates=recipe.global_batch > recipe.micro_batch * machines.ranks,
        memory_bytes=machines.gpu_memory_bytes,
        only=None if asked in (None, AUTO) else asked,
    )
    machines.answer_file.write_text(json.dumps(answer(machines, choice, sizes)))
    raise SystemExit(0)


def answer(machines: PlannedMachines, choice: Choice, sizes: ModelSizes) -> dict[str, Any]:
    """Return the report of a choice. Pure."""
    size_bytes = MASTER_BYTES * sizes.trainable + sizes.frozen_bytes + sizes.optimizer_bytes
    rank_bytes = -(-size_bytes // machines.ranks)
    save: dict[str, JSON] = {
        "size_bytes": size_bytes,
        "rank_bytes": rank_bytes,
        # Shards are written at once, by all ranks of all nodes.
        "seconds": rank_bytes * machines.ranks_per_node / machines.write_bytes_per_s,
        "write_bytes_per_s": machines.write_bytes_per_s,
    }
    return {
        "ranks": machines.ranks,
        "ranks_per_node": machines.ranks_per_node,
        "gpu_memory_bytes": machines.gpu_memory_bytes,
        "strategy": choice.strategy,
        "reason": choice.reason,
        "table": choice.table,
        "parameters": sizes.trainable,
        "save": save,
    }
