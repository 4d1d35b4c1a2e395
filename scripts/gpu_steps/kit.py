"""What the steps of gpu_check have in common."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from launcher.contract.environment import RankEnvironment
from launcher.contract.preemption import PreemptionFlag
from launcher.contract.run_options import RunOptions
from launcher.run_folder.folder import RunFolder
from launcher.training.loop.job import Job
from launcher.training.rank_console import RankConsole
from launcher.training.run import Run
from launcher.training.start.opening import open_run
from strategies import Ranks

OUT = Path(os.environ["GPU_CHECK_OUT"])
ROOT = Path(__file__).parents[2]
ON_GPU = torch.cuda.is_available()
os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")


def say(
    what: str, value: object, unit: str = "", *, passed: bool | None = None, target: str = ""
) -> None:
    """Note a fact at once: what a cut-off step has printed may be lost."""
    one = {"what": what, "value": value, "unit": unit, "pass": passed, "target": target}
    with (OUT / "facts.jsonl").open("a") as facts:
        facts.write(json.dumps(one) + "\n")
    print(one, flush=True)


def holds(
    what: str, value: float, most: float, unit: str = "", *, only_on_gpu: bool = True
) -> None:
    """Note a number that must not be above another; on a CPU that may prove nothing."""
    passed = value <= most if ON_GPU or not only_on_gpu else None
    say(what, value, unit, passed=passed, target=f"<= {most:g}")


class Block(nn.Module):
    """Causal self-attention and a perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 64
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, 64)
        heads = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), is_causal=True)
        x = x + self.out(heads.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    """A decoder with tied embeddings."""

    def __init__(self, width: int, depth: int, vocabulary: int, context: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(context, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits


def sized(name: str) -> dict[str, int]:
    """Return a model's sizes; tiny ones without a GPU."""
    if not ON_GPU:
        return {"width": 64, "depth": 2, "vocabulary": 256, "context": 32}
    return {
        "124M": {"width": 768, "depth": 12, "vocabulary": 50304, "context": 1024},
        "1B": {"width": 2048, "depth": 18, "vocabulary": 50304, "context": 1024},
    }[name]


class Tokens(torch.utils.data.Dataset[torch.Tensor]):
    """Random tokens, the same each time; made once, so that reading them costs next to nothing."""

    def __init__(self, vocabulary: int, context: int, count: int = 512) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, vocabulary, (count, context + 1), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.tokens[index]


def loss_of(model: Any, tokens: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
    logits = model(tokens[:, :-1]).float()
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4)


class Flag:
    """A preemption flag without signals."""

    requested = False
    cause = "the check"
    deadline = None


def make_job(
    ranks: Ranks,
    strategy: str,
    folder: Path,
    *,
    model: Callable[[], nn.Module],
    train: Any,
    precision: str = "fp32",
    **recipe: Any,
) -> Job:
    """Prepare a run on the process group that there is."""
    environment = replace(
        RankEnvironment.from_environ({}), run=RunOptions(strategy=strategy, precision=precision)
    )
    flag, silent = cast(PreemptionFlag, Flag()), RankConsole(is_heard=False)
    place = RunFolder(folder)
    run = Run(open_run(environment, ranks, flag, folder=place, seed=0, console=silent))
    if strategy == "accelerate":
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)  # one a process, in one precision
        mixed = {"fp32": "no"}.get(precision, precision)
        recipe["accelerator"] = Accelerator(cpu=not ON_GPU, mixed_precision=mixed)
    defaults: dict[str, Any] = {
        "optimizer": adamw,
        "epochs": 10**6,
        "max_grad_norm": 1.0,
        "save_every": "1000000 steps",
        "evaluate_every": "1000000 steps",
        "log_every": 1000,
    }
    return run.prepare(model=model, train=train, **(defaults | recipe))


def stepping(job: Job) -> Callable[[], None]:
    """Return what does one step."""
    steps = iter(job)

    def step() -> None:
        for tokens in (current := next(steps)):
            current.backward(loss_of(job.model, tokens), count=tokens[:, 1:].numel())

    return step


def events_of(folder: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").open()]


def synchronise() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def timed_s(action: Callable[[], object]) -> float:
    """Return how long an action takes, to its end on the device."""
    synchronise()
    began_s = time.perf_counter()
    action()
    synchronise()
    return time.perf_counter() - began_s


def relaunch(*words: str, **environ: str) -> "subprocess.Popen[str]":
    """Start the command, from this checkout; standard output and error together."""
    code = "import sys; from launcher.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines_until(process: "subprocess.Popen[str]", word: str) -> Iterator[str]:
    """Yield what a process prints, up to the first line with a word in it."""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        yield line
        if word in line:
            return
