"""What --strategy auto estimates, beside what is allocated."""

import gc

import torch
from kit import DEVICE, ON_GPU, OUT, Gpt, Tokens, adamw, make_job, say, sized, stepping

from strategies import Blueprint, BuildOptions, precision_for, process_groups
from strategies.parallel.auto.measure import measure_model
from strategies.parallel.auto.memory_model import Spread, needs

MICRO = 8 if ON_GPU else 2
with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
    size = sized("124M")
    data = Tokens(size["vocabulary"], size["context"])
    batch = torch.stack([data[n] for n in range(MICRO)])
    for blocks in ((), ("blocks.*",)):
        options = BuildOptions(checkpoint_blocks=blocks)
        blueprint = Blueprint(
            model=lambda: Gpt(**size),
            optimizer=adamw,
            precision=precision_for("bf16", DEVICE.type),
            max_grad_norm=1.0,
            seed=0,
            ranks=ranks,
            options=options,
        )
        sizes = measure_model(blueprint, batch, lambda model, tokens: model(tokens[:, :-1]))
        need = needs(sizes, ("single",), Spread(ranks=1, shards=1, by_name=False))["single"]
        name = f"single{', checkpoint_blocks' if blocks else ''}"
        say(f"{name}: estimated", need.total / 2**30, "GiB")
        gc.collect()
        if ON_GPU:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        job = make_job(
            ranks,
            "single",
            OUT / f"run-{len(blocks)}",
            model=lambda: Gpt(**size),
            train=data,
            precision="bf16",
            global_batch=2 * MICRO,
            micro_batch=MICRO,
            checkpoint_blocks=list(blocks) or None,
        )
        step = stepping(job)
        for _ in range(3):
            step()
        if ON_GPU:
            ratio = need.total / torch.cuda.max_memory_allocated()
            passed = 0.85 <= ratio <= 1.15
            say(f"{name}: estimated / allocated", ratio, passed=passed, target="0.85 to 1.15")
        job.run.lockstep.stay()
        del job, step
