"""Two ranks on this one GPU, whose sums go by way of the host: a trial, and no measurement."""

import json
import signal
from pathlib import Path

from kit import ON_GPU, OUT, lines_until, relaunch, say

SMALL = ("--steps", "12", "--batch", "8", "--micro-batch", "2", "--width", "64", "--depth", "2")
SCRIPT = "scripts/train_bytes.py"


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [one["loss"] for one in records if "loss" in one]


def train(name: str, ranks: int, strategy: str) -> tuple[int, list[float]]:
    folder = OUT / name
    words = ("--nproc-per-node", str(ranks), "--strategy", strategy, "--run-dir", str(folder))
    process = relaunch(*words, SCRIPT, *SMALL, RELAUNCH_CUDA_BACKEND="gloo")
    printed = process.communicate()[0]
    print(printed)
    if ranks > 1 and ON_GPU:
        is_told = "2 ranks share 1 GPU" in printed
        say(f"{name}: it is said that GPUs are shared", is_told, passed=is_told)
    return process.returncode, losses(folder) if process.returncode == 0 else []


_, alone = train("one", 1, "single")
for strategy in ("ddp", "fsdp"):
    code, found = train(strategy, 2, strategy)
    say(f"{strategy}: exit code", code, passed=code == 0, target="0")
    pairs = list(zip(alone, found, strict=False))
    worst = max((abs(a - b) for a, b in pairs), default=float("nan"))
    say(f"{strategy}: largest difference of the loss", worst, passed=worst < 1e-4, target="< 1e-4")
words = ("--nproc-per-node", "2", "--strategy", "ddp", "--run-dir", str(OUT / "left"))
long = ("--steps", "4000", *SMALL[2:])
process = relaunch(*words, SCRIPT, *long, RELAUNCH_CUDA_BACKEND="gloo")
for _ in lines_until(process, "  loss "):
    pass
process.send_signal(signal.SIGTERM)
print(process.communicate()[0])
say("asked to leave: exit code", process.returncode, passed=process.returncode == 75, target="75")
