"""The step whose result is known, under DeepSpeed as it is and with its sums over the ranks gone.

usage: known_step_worker.py PRECISION; each rank prints a line for each stage.
"""

import os
import sys
import time
from typing import Any

import torch

from launcher.contract.environment import RankEnvironment
from strategies import ConfigError, precision_for, process_groups
from strategies.parallel.zero.start.engine_config import engine_config, import_deepspeed
from strategies.parallel.zero.start.known_step import require_known_step


def nothing(*args: Any, **kwargs: Any) -> None:
    """In the place of a sum over the ranks."""


torch.set_num_threads(1)
environment = RankEnvironment.from_environ(os.environ)
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    device = torch.device("cpu")
    deepspeed = import_deepspeed("zero1", device)
    precision = precision_for(sys.argv[1], "cpu")

    def step(stage: int) -> str:
        config = engine_config(
            stage=stage, precision=precision.name, device_type="cpu", offload=False
        )
        begun = time.process_time()
        try:
            require_known_step(deepspeed, config, precision, ranks, device=device)
        except ConfigError as error:
            return str(error)
        return f"fine ({1000 * (time.process_time() - begun):.0f} ms of CPU time)"

    for when in ("as it is", "again"):  # the second time without the imports of the first
        for stage in (1, 2, 3):
            print(f"zero{stage} {when}: {step(stage)}", flush=True)
    for stage in (1, 2):
        whole, deepspeed.comm.all_reduce = deepspeed.comm.all_reduce, nothing
        print(f"zero{stage} without sums: {step(stage)}", flush=True)
        deepspeed.comm.all_reduce = whole
