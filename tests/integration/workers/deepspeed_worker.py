"""Train under DeepSpeed itself at one ZeRO stage after the other, and save as DeepSpeed does."""

import os
import sys

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import torch
from torch import nn


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))


def main() -> None:
    # Or it compiles an extension, under a lock that a killed process leaves behind for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    for stage in (1, 2, 3):
        model = make_model()
        named = list(model.named_parameters())
        groups = [
            {"params": [p for _, p in named if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
        ]
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.AdamW(groups, lr=1e-2),
            config={
                "train_micro_batch_size_per_gpu": 2,
                "zero_optimization": {"stage": stage},
                "bf16": {"enabled": True},
                "checkpoint": {"load_universal": False},
                "universal_checkpoint_info": {},
            },
        )
        generator = torch.Generator().manual_seed(engine.global_rank)
        for _ in range(3):
            batch = torch.randn(2, 5, generator=generator).bfloat16()
            engine.backward(engine(batch).float().square().mean())
            engine.step()
        engine.save_checkpoint(f"{sys.argv[1]}/zero{stage}", tag="step")
    torch.distributed.destroy_process_group()


main()
