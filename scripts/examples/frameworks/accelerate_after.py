"""An Accelerate loop: after a preemption the same command resumes at the next step."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from launcher import Resumable

EPOCHS = 2


def main() -> None:
    accelerator = Accelerator(gradient_accumulation_steps=2)
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(256, 8), torch.randint(0, 3, (256,)))
    net = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.1), nn.Linear(32, 3))
    adamw = torch.optim.AdamW(net.parameters(), lr=1e-3)
    batches = DataLoader(data, batch_size=8, shuffle=True)
    model, optimizer, loader = accelerator.prepare(net, adamw, batches)
    with Resumable.of(accelerator, model=model, optimizer=optimizer, loader=loader) as run:
        for _, (x, y) in run.batches(epochs=EPOCHS):
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            run.step(loss=loss)


if __name__ == "__main__":
    main()
