"""ZeRO on one rank, where DeepSpeed is installed, beside ddp."""

import importlib.util
import time

import torch
from kit import DEVICE, OUT, Gpt, Tokens, adamw, make_job, say, sized, stepping

from strategies import process_groups

STEPS = 6
if importlib.util.find_spec("deepspeed") is None:
    say("DeepSpeed", "skipped: not installed")
else:
    began_s = time.monotonic()
    import deepspeed

    say("import deepspeed", time.monotonic() - began_s, "s")
    say("DeepSpeed", deepspeed.__version__)
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        size = sized("124M") | {"depth": 2}
        norms: dict[str, list[float]] = {}
        for name in ("ddp", "zero1", "zero2", "zero3"):
            for precision in ("fp32", "bf16"):
                job = make_job(
                    ranks,
                    name,
                    OUT / f"{name}-{precision}",
                    model=lambda: Gpt(**size),
                    optimizer=adamw,
                    train=Tokens(size["vocabulary"], size["context"]),
                    precision=precision,
                    global_batch=4,
                    micro_batch=2,
                )
                found = norms[f"{name}, {precision}"] = []
                step = stepping(job)
                for _ in range(STEPS):
                    step()
                    outcome = job._loop._open.outcome if job._loop._open else None
                    found.append(outcome.grad_norm if outcome else float("nan"))
                job.run.lockstep.stay()
                truth = norms[f"ddp, {precision}"]
                worst = max(abs(a - b) / b for a, b in zip(found, truth, strict=True))
                most = 1e-4 if precision == "fp32" else 3e-2
                what = f"{name}, {precision}: norms, largest difference"
                say(what, worst, passed=worst <= most, target=f"<= {most:g}")
        assert DEVICE.type in ("cuda", "cpu")
        assert torch.is_tensor(torch.zeros(1))
