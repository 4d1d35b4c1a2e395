"""A user's script with its own Accelerator, made in a way that does something else."""

import sys

from accelerate import Accelerator, FullyShardedDataParallelPlugin
from task import Awkward, Samples, adamw

from launcher import Run

KINDS = {
    "alone": Accelerator,
    "fsdp": lambda: Accelerator(
        cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2)
    ),
}


def main(run: Run) -> None:
    run.prepare(
        model=Awkward,
        optimizer=adamw,
        train=Samples(47),
        global_batch=20,
        micro_batch=4,
        epochs=1,
        accelerator=KINDS[sys.argv[1]](),
    )


if __name__ == "__main__":
    Run.start(main)
