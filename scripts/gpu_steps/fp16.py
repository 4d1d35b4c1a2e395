"""Overflow, and where the loss scale of fp16 begins."""

import json

import torch
from kit import ON_GPU, OUT, Gpt, Tokens, loss_of, make_job, say, sized

from strategies import process_groups

PRECISION, MICRO = ("fp16", 8) if ON_GPU else ("fp32", 2)
with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
    size = sized("124M")
    job = make_job(
        ranks,
        "ddp",
        OUT / "run",
        model=lambda: Gpt(**size),
        train=Tokens(size["vocabulary"], size["context"]),
        precision=PRECISION,
        global_batch=MICRO,
        micro_batch=MICRO,
        log_every=1,
    )
    applied, scales = [], []
    for step in job:
        for tokens in step:
            loss = loss_of(job.model, tokens)
            if step.number == 6:
                loss = loss * float("inf")
            step.backward(loss, count=tokens[:, 1:].numel())
        assert step.outcome is not None
        applied.append(step.outcome.applied)
        scales.append(job._loop.state.scale.scale)
        if step.number == 9:
            break
    job.run.lockstep.stay()
    skipped = applied[:6].count(False)
    say("steps skipped at the start", skipped, passed=skipped <= 2, target="<= 2")
    say("a step of inf is left out", not applied[6], passed=not applied[6])
    say("the steps after it are applied", all(applied[7:]), passed=all(applied[7:]))
    say("loss scale, step by step", json.dumps(scales))
    assert torch.isfinite(torch.tensor(scales)).all()
