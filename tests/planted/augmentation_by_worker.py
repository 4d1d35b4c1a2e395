"""Each loader worker adds noise from a stream of its own, whose generator is in no attribute."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset, get_worker_info

from launcher import Run


def samples() -> TensorDataset:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(96, 8, generator=drawn)
    return TensorDataset(x, x.sum(1, keepdim=True))


def noise(seed: int) -> Iterator[torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(8, generator=drawn)


class Augmented(Dataset[tuple[torch.Tensor, ...]]):
    def __init__(self, inner: TensorDataset) -> None:
        self.inner = inner
        self.noise: Iterator[torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        if self.noise is None:
            worker = get_worker_info()
            self.noise = noise(7 + (worker.id if worker else 0))
        x, y = self.inner[index]
        return x + 0.1 * next(self.noise), y


def main(run: Run) -> None:
    job = run.prepare(
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        train=Augmented(samples()),
        global_batch=24,
        micro_batch=4,
        epochs=3,
        workers=2,
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(x))


if __name__ == "__main__":
    Run.start(main)
