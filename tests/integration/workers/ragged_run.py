"""Samples of different lengths, batched by functions of the script's."""

import sys
from collections import UserDict
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from launcher import Run

WAY = sys.argv[1]
used: dict[str, int] = {}


class Ragged:
    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"ids": torch.full((1 + index % 5,), float(index))}


def padding(name: str) -> Any:
    def collate(samples: list[dict[str, torch.Tensor]]) -> UserDict[str, torch.Tensor]:
        used[name] = used.get(name, 0) + 1
        ids = pad_sequence([sample["ids"] for sample in samples], batch_first=True)
        return UserDict(ids=ids, sums=ids.sum(1))

    return collate


def loss(model: nn.Module, batch: Any) -> tuple[torch.Tensor, int]:
    return model(batch["sums"][:, None] / 100).pow(2).sum(), len(batch["sums"])


def measure(model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
    return {"loss": model(batch["sums"][:, None] / 100).pow(2).flatten()}


def main(run: Run) -> None:
    recipe: dict[str, Any] = {
        "model": lambda: nn.Linear(1, 1),
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
        "train": Ragged(),
        "global_batch": 8,
        "micro_batch": 4,
        "steps": 4,
        "evaluate_every": "2 steps",
        "track": [],
    }
    if WAY == "none":
        run.fit(loss=loss, **recipe)
    elif WAY == "other":
        train, others = padding("train"), padding("evaluation")
        job = run.prepare(**recipe, collate=train)
        for step in job:
            for batch in step:
                total, count = loss(job.model, batch)
                step.backward(total, count=count)
            if step.evaluation_due:
                step.evaluate(Ragged(), measure, collate=others)
        job.test(Ragged(), measure, collate=others)
    else:
        own = {"evaluation_collate": padding("evaluation")} if WAY == "fit, other" else {}
        evaluated: dict[str, Any] = {"measure": measure, "validate": Ragged(), "test": Ragged()}
        run.fit(loss=loss, **evaluated, **own, **recipe, collate=padding("train"))
    if run.ranks.is_coordinator:
        print(f"used {sorted(used)}", flush=True)


if __name__ == "__main__":
    Run.start(main)
