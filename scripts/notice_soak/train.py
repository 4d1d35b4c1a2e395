"""The run of the trials: small, and slow at one place, where the notice is to come.

The recipe never changes. What the environment asks for only lets time pass, so that every run of
this script ends with the same numbers. Files in the folder of marks tell where the ranks are:
`at-RANK` when the phase has begun, `fault`, and a line for each finished step in `steps-RANK-N`,
where N is the number of the restart.
"""

import json
import os
import signal
import time
from pathlib import Path

PLACE = json.loads(os.environ.get("NOTICE_SOAK_PLACE", "{}"))
"""phase, hold_s, at (a step, or the number of an evaluation), who (a rank, or -1 for all)."""
MARKS = Path(os.environ["NOTICE_SOAK_MARKS"])
RANK = int(os.environ.get("RANK", "0"))
WORKERS = int(os.environ.get("NOTICE_SOAK_WORKERS", "0"))
COMPILES = os.environ.get("NOTICE_SOAK_COMPILE") == "1"
RESTART = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_at(phase: str, number: int | None = None) -> bool:
    """Tell whether the notice is to come in this phase, and this is the step it is about."""
    return PLACE.get("phase") == phase and number in (None, PLACE["at"])


def is_from(phase: str, number: int) -> bool:
    """Tell the same of this step and all that follow it."""
    return PLACE.get("phase") == phase and number >= PLACE["at"]


def linger(seconds: float | None = None) -> None:
    """Say that the phase has begun, and stay in it."""
    (MARKS / f"at-{RANK}").touch()
    if PLACE["who"] in (-1, RANK):
        end = time.monotonic() + (PLACE["hold_s"] if seconds is None else seconds)
        while (left := end - time.monotonic()) > 0:
            time.sleep(left)


(MARKS / f"steps-{RANK}-{RESTART}").touch()
if is_at("import"):
    linger()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from launcher import Run  # noqa: E402
from strategies import EarlyStopping, schedules  # noqa: E402

WIDTH = 24
NUMBER_OF_PHASE = {"step": 0, "accumulation": 1}
"""The micro-batch in which a rank is slow."""
DISK_CALLS = ("preadv", "pwrite", "fsync")
NUM_DISK_CALLS = 8
"""About as many as an export of this model makes, where it is sharded."""
exported: list[bool] = []
SAMPLES_OF_RANK = 8
"""Samples that a rank reads for a step, each of which waits in the phase "data wait"."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(F.gelu(self.inner(x)))


class Net(nn.Module):
    """Two blocks; its first forward may be slow, as with a compiler."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, 1)
        self.is_compiled = not is_at("compile") or COMPILES
        if is_at("build"):
            linger()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_compiled:
            self.is_compiled = True
            linger()
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Samples(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """x (8,) and y (1,), which a small network can learn."""

    def __init__(self, count: int, seed: int, *, may_wait: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 8, generator=generator)
        self.y = self.x[:, :3].sin().sum(1, keepdim=True)
        self.left: int | None = None
        if may_wait and is_at("data wait"):  # each of the processes that read counts its share
            self.left = PLACE["at"] * SAMPLES_OF_RANK // max(1, WORKERS)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                linger(PLACE["hold_s"] / SAMPLES_OF_RANK)
        return self.x[index], self.y[index]


class Memory:
    """An object of the script's own, which takes its time to come back."""

    def __init__(self) -> None:
        self.seen = 0

    def state(self) -> dict[str, int]:
        return {"seen": self.seen}

    def restore(self, state: dict[str, int]) -> None:
        if is_at("restore"):
            linger()
        self.seen = state["seen"]


def optimizer(parameters) -> torch.optim.Optimizer:
    # eps above the rounding noise of a gradient, which Adam would turn into whole steps.
    return torch.optim.AdamW(parameters, lr=5e-3, eps=1e-6)


def main(run: Run) -> None:
    memory = Memory()
    measured = 0

    def measure(model, batch):
        x, y = batch
        return {"loss": F.mse_loss(model(x), y, reduction="none").mean(1)}

    def measure_slowly(phase):
        def slow(model, batch):
            linger(PLACE["hold_s"] / 8)
            return measure(model, batch)

        return slow if is_at(phase, measured) else measure

    job = run.prepare(
        model=Net,
        optimizer=optimizer,
        schedule=schedules.warmup(3).then(schedules.cosine(floor=0.1)),
        train=Samples(88, seed=1, may_wait=True),
        global_batch=16,
        micro_batch=4,
        epochs=6,
        evaluate_every="4 steps",
        save_every=os.environ.get("NOTICE_SOAK_SAVE_EVERY", "5 steps"),
        log_every=1,
        keep=2,
        workers=WORKERS,
        stop=EarlyStopping("val/loss", patience=2, min_delta=0.5),
        max_grad_norm=1.0,
        objects={"memory": memory},
        compile_blocks=COMPILES,
    )
    for step in job:
        for number, (x, y) in enumerate(step):
            if number == NUMBER_OF_PHASE.get(PLACE.get("phase")) and step.number >= PLACE["at"]:
                linger()
            if COMPILES:
                (MARKS / f"at-{RANK}").touch()
            step.backward(F.mse_loss(job.model(x), y, reduction="sum"), count=len(y))
        memory.seen += 1
        with (MARKS / f"steps-{RANK}-{RESTART}").open("a") as file:
            file.write(f"{step.number + 1}\n")
        if is_from("save in flight", step.number) or is_from("restart", step.number):
            linger()
        if is_at("restart", step.number) and RESTART == 0 and RANK == 1:
            (MARKS / "fault").touch()
            raise RuntimeError("a fault of the trial's own")
        if is_at("leave", step.number) and RANK == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        if step.evaluation_due:
            measured = step.number + 1
            step.evaluate(Samples(62, seed=2), measure_slowly("evaluation"))
    export(job)
    measured = PLACE.get("at")
    job.test(Samples(62, seed=3), measure_slowly("test"), which="best")
    if is_at("end"):
        linger(0.3)


def export(job) -> None:
    """Write the last weights; in the phase "export" from and to a disk that is slow."""
    if is_at("export"):
        (MARKS / f"at-{RANK}").touch()
        for name in DISK_CALLS:
            setattr(os, name, slowly(getattr(os, name)))
    job.export("last")
    exported.append(True)


def slowly(call):
    def slow(*arguments):
        if not exported:
            linger(PLACE["hold_s"] / NUM_DISK_CALLS)
        return call(*arguments)

    return slow


if __name__ == "__main__":
    Run.start(main)
