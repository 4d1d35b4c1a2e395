"""Each strategy on one rank, against a loop by hand: the same weights after some steps."""

from typing import Any

import torch
from kit import DEVICE, ON_GPU, OUT, make_job, say
from torch import nn

from strategies import process_groups, seed_streams, stream_seed

STEPS, BATCH = 8, 16
MOST = {"fp32": 1e-5, "bf16": 5e-3, "fp16": 5e-3}


class Smooth(nn.Module):
    """No embedding, whose gradient differs from run to run; BatchNorm, dropout, odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(37, 67), nn.GELU(), nn.Dropout(0.1), nn.Linear(67, 37))
            for _ in range(2)
        )
        self.norm = nn.BatchNorm1d(37)
        self.head = nn.Linear(37, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x))


class Pairs(torch.utils.data.Dataset[Any]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(256, 37, generator=generator)
        self.y = torch.randint(0, 5, (256,), generator=generator)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index]


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, eps=1e-4)


def loss_of(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(x).float(), y, reduction="sum")


def ours(ranks: Any, name: str, precision: str) -> dict[str, torch.Tensor]:
    job = make_job(
        ranks,
        name,
        OUT / f"{name}-{precision}",
        model=Smooth,
        optimizer=adam,
        train=Pairs(),
        precision=precision,
        global_batch=BATCH,
        micro_batch=BATCH // 2,
    )
    seen = []
    for step in job:
        for x, y in step:
            seen.append((x.clone(), y.clone(), step.number))
            step.backward(loss_of(job.model, x, y), count=len(y))
        if step.number + 1 == STEPS:
            break
    BATCHES[:] = seen
    full = {n: p.detach().clone() for n, p in job._strategy._model.named_parameters()}
    job.run.lockstep.stay()
    return {n: getattr(p, "full_tensor", lambda p=p: p)().float().cpu() for n, p in full.items()}


def by_hand() -> dict[str, torch.Tensor]:
    """The same batches, seeds and means, in fp32, as one writes it without a library."""
    torch.manual_seed(0)
    model = Smooth().to(DEVICE)
    model.load_state_dict(START)
    optimizer = adam(model.parameters())
    for number in range(STEPS):
        micro_batches = [(x, y) for x, y, step in BATCHES if step == number]
        for index, (x, y) in enumerate(micro_batches):
            seed_streams(stream_seed(0, number, index))
            (loss_of(model, x, y) / BATCH).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {n: p.detach().float().cpu() for n, p in model.named_parameters()}


BATCHES: list[Any] = []
torch.backends.cudnn.allow_tf32 = False
with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
    probe = make_job(
        ranks,
        "single",
        OUT / "start",
        model=Smooth,
        optimizer=adam,
        train=Pairs(),
        global_batch=BATCH,
        micro_batch=BATCH,
    )
    START = {n: t.clone() for n, t in probe._strategy._model.state_dict().items()}
    probe.run.lockstep.stay()
    for precision in ("fp32", "bf16", *(("fp16",) if ON_GPU else ())):
        truth: dict[str, torch.Tensor] = {}
        for name in ("single", "ddp", "fsdp", "accelerate"):
            if (name, precision) == ("accelerate", "fp16"):
                continue
            found = ours(ranks, name, precision)
            truth = truth or (by_hand() if precision == "fp32" else found)
            worst = max(float((found[n] - t).abs().max()) for n, t in truth.items())
            most = MOST[precision] if name != "fsdp" or precision == "fp32" else 2e-2
            what = f"{name}, {precision}: largest difference"
            say(what, worst, passed=worst <= most, target=f"<= {most:g}")
