"""Checkpoints in a plain torch loop, without any other part of relaunch.

python scripts/examples/checkpoint_alone.py FOLDER        (again: it resumes)
"""

import sys
from pathlib import Path

import torch

from checkpointing import (
    CheckpointStore,
    Fragment,
    LocalCommunicator,
    Snapshot,
    TensorSpec,
    dtype_name,
    save_checkpoint,
)

STEPS = 5


def named_tensors(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[tuple[str, str], torch.Tensor]:
    """Return what is saved, by (parameter, key): weights, and Adam's moments once they exist."""
    found = {(name, "fp32"): p for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            if key in optimizer.state[parameter]:
                found[name, key] = optimizer.state[parameter][key]
    return found


def save(store: CheckpointStore, step: int, tensors: dict[tuple[str, str], torch.Tensor]) -> None:
    """Write, prove that all is there, and only then give the folder its name."""
    fragments = []
    for (fqn, key), tensor in tensors.items():
        spec = TensorSpec(
            fqn=fqn, key=key, shape=tuple(tensor.shape), dtype=dtype_name(tensor.dtype)
        )
        flat = tensor.detach().reshape(-1)
        fragments.append(Fragment(spec=spec, start=0, end=spec.numel, data=flat))
    snapshot = Snapshot(
        step=step,
        specs=[fragment.spec for fragment in fragments],
        fragments=fragments,
        state={"note": "whatever else your loop needs, as JSON"},
        created_by={"script": "checkpoint_alone.py"},
    )
    save_checkpoint(store, snapshot, LocalCommunicator())


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    store = CheckpointStore(folder)
    first = max(store.steps(), default=0)
    if first:
        with store.open(first) as reader:  # every block is compared with its checksum when read
            for parameter in model.parameters():
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(first)),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
            for (fqn, key), tensor in named_tensors(model, optimizer).items():
                values = reader.read(fqn, key, 0, tensor.numel())
                tensor.detach().copy_(values.view_as(tensor))
    for step in range(first, first + STEPS):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save(store, first + STEPS, named_tensors(model, optimizer))
    print(f"steps {first} to {first + STEPS}, loss {float(loss):.9f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
