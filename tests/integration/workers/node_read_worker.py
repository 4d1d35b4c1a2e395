"""Save under one strategy, load under another, and count what each rank reads of the shards.

    node_read_worker.py FOLDER SAVER LOADER NUM_NODES HARM

The ranks are those of one node, or each of a node of its own. HARM is "none", or "flip": one byte
of the newest checkpoint is changed, in a block that one rank alone reads.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

from checkpointing import CheckpointStore, Files, save_checkpoint
from launcher.contract.environment import RankEnvironment
from strategies import (
    Blueprint,
    HostCommunicator,
    collect_state,
    current_hyperparameters,
    precision_for,
    process_groups,
    restore_newest,
    strategy_class,
)

torch.set_num_threads(1)
out, saver, loader, num_nodes, harm = sys.argv[1:]
environment = RankEnvironment.from_environ(os.environ)
rank = environment.rank
store = CheckpointStore(Path(out) / "checkpoints")


class CountingFiles(Files):
    def __init__(self):
        self.num_bytes = 0
        self.shards = set()

    def open(self, path):
        fd = super().open(path)
        if path.suffix == ".safetensors":
            self.shards.add(fd)
        return fd

    def close(self, fd):
        self.shards.discard(fd)
        super().close(fd)

    def pread(self, fd, into, offset):
        num_read = super().pread(fd, into, offset)
        self.num_bytes += num_read * (fd in self.shards)
        return num_read


def network():
    layers = [nn.Linear(700, 700) for _ in range(6)]
    return nn.Sequential(*layers, nn.BatchNorm1d(700), nn.Linear(700, 1))


def build(name):
    return strategy_class(name)(
        Blueprint(
            model=network,
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
            precision=precision_for("fp32", "cpu"),
            max_grad_norm=1.0,
            seed=0,
            ranks=ranks,
        )
    )


def train(strategy):
    x = torch.randn(16, 700, generator=torch.Generator().manual_seed(rank))
    strategy.micro_step(is_last=True)
    strategy.backward(strategy.module(x).square().sum())
    strategy.step(16 * environment.world_size)


def save(strategy, step):
    requested = current_hyperparameters(strategy.param_groups)
    snapshot = collect_state(
        strategy, talk, step=step, state={}, created_by={}, requested=requested
    )
    save_checkpoint(store, snapshot, talk)


def content(step):
    """Everything in a checkpoint, by name."""
    with store.open(step) as reader:
        specs = reader.manifest.specs()
        return {s.name: bytes(reader.read_raw(s.fqn, s.key, 0, s.numel)) for s in specs}


with process_groups(
    rank=rank,
    local_rank=environment.local_rank,
    world_size=environment.world_size,
    node_rank=rank % int(num_nodes),
) as ranks:
    talk = HostCommunicator(ranks)
    saved = build(saver)
    train(saved)
    save(saved, 1)
    train(saved)
    save(saved, 2)
    if harm == "flip" and rank == 0:
        shard = sorted(store.path(2).glob("*.safetensors"))[-1]
        with shard.open("r+b") as file:
            file.seek(-5, os.SEEK_END)
            byte = file.read(1)
            file.seek(-5, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))
    talk.broadcast(None)
    del saved
    loaded, files = build(loader), CountingFiles()
    restored = restore_newest(loaded, CheckpointStore(store.folder, files), talk)
    num_bytes = files.num_bytes
    save(loaded, 3)
    verdict = {"step": restored.step, "damaged": list(restored.damaged), "num_bytes": num_bytes}
    everyone = talk.all_gather(verdict)
    if rank == 0:
        verdict["all"] = everyone
        verdict["is_equal"] = content(3) == content(restored.step)
        verdict["size_bytes"] = sum(map(len, content(3).values()))
        (Path(out) / "seen.json").write_text(json.dumps(verdict))
