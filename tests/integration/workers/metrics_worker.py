"""Measures 13 samples in batches of 4; each rank writes what it found."""

import json
import os
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from measuring import Predicted, kappa_and_auroc, measure

from launcher.contract.environment import RankEnvironment
from launcher.training.loop.evaluation import evaluate
from strategies import Boundary, DesyncError, Strategy, metrics, process_groups
from strategies.collectives.agreed_gathers import NOTHING_GATHERED
from strategies.data.options import Loading
from strategies.data.reading.loading import EvaluationLoaders
from strategies.parallel.build_options import BuildOptions

environment = RankEnvironment.from_environ(os.environ)
kappa, auroc = kappa_and_auroc()

with process_groups(
    rank=environment.rank,
    local_rank=environment.local_rank,
    world_size=environment.world_size,
) as ranks:
    find = partial(
        evaluate,
        cast(
            Strategy,
            SimpleNamespace(
                module=torch.nn.Identity(),
                together=nullcontext,
                options=BuildOptions(),
                gathers=NOTHING_GATHERED,
            ),
        ),
        ranks,
        Boundary(ranks, {}),
        Predicted(),
        micro_batch=4,
        name="val",
        seed=0,
        open_batches=partial(EvaluationLoaders(0, {}).open, loading=Loading()),
        beat=lambda: None,
    )
    evaluation = find(lambda model, batch: measure(kappa, auroc, batch))
    found: dict[str, Any] = {"metrics": evaluation.metrics}

    def other_arguments(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {"f1": metrics.f1(batch["scores"], batch["labels"], num_classes=4 + ranks.rank)}

    try:
        find(other_arguments)
    except DesyncError as error:
        found["refusal"] = str(error)

Path(sys.argv[1], f"rank-{environment.rank}.json").write_text(json.dumps(found))
