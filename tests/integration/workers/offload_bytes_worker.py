"""What DeepSpeed keeps on the host when it offloads, beside what `--strategy auto` counts.

usage: offload_bytes_worker.py OUT STRATEGY PRECISION

As in offload_worker.py the CPU is in the GPU's place. Rank R writes OUT/STRATEGY-R.json, in bytes,
after two micro-batches and a step: what lies where DeepSpeed would have the host's memory, and
what the weights' device would still have of the gradients.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from memory_worker import Chain, train

from launcher.contract.environment import RankEnvironment
from strategies import Blueprint, BuildOptions, precision_for, process_groups, strategy_class
from strategies.parallel.auto.measure import measure_model
from strategies.parallel.auto.memory_model import Spread, flat_step
from strategies.parallel.auto.offload_model import needs_offloaded

WIDTH, DEPTH, ROWS = 300, 4, 8
out, name, precision = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
BuildOptions.require = lambda self, strategy, device_type: None


def size_bytes(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def state_of(optimizer):
    found = [t for held in optimizer.state.values() for t in held.values() if torch.is_tensor(t)]
    return [t for t in found if t.ndim > 0]


def held_by_stage_12(zero):
    masters = zero.single_partition_of_fp32_groups
    found = [*masters, *(m.grad for m in masters)]
    found += [*zero.param_buffer_of_bit16_for_cpu_offload_groups]
    return [*found, *zero.accumulated_grads_in_cpu.values(), zero.temp_grad_buffer_for_cpu_offload]


def held_by_stage_3(zero):
    masters = zero.fp32_partitioned_groups_flat
    found = [*masters, *(m.grad for m in masters), zero.grad_partitions_flat_buffer]
    return found + zero.param_groups_fp16_flat_cpu_memory


def gradients_left(strategy, zero):
    found = [p.grad for p in strategy._model.parameters()]
    found += [getattr(p, "grad_accum", None) for p in strategy._model.parameters()]
    if name != "zero3":
        found += [getattr(one, "flat_partition", None) for one in zero.averaged_gradients.values()]
    return size_bytes([grad for grad in found if grad is not None])


environment = RankEnvironment.from_environ(os.environ)
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    blueprint = Blueprint(
        model=lambda: Chain(width=WIDTH, depth=DEPTH),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-4),
        precision=precision_for(precision, "cpu"),
        max_grad_norm=None,
        seed=1,
        ranks=ranks,
        options=BuildOptions(local_world_size=ranks.world_size, offload=True),
    )
    batch = (torch.randn(ROWS, WIDTH), torch.zeros(ROWS, dtype=torch.int64))
    sizes = replace(measure_model(blueprint, batch, None), on_host=False)
    size = ranks.world_size
    spread = Spread(ranks=size, shards=size, by_name=True)
    # By name, because the copies that prove the layout are gone by then.
    need = needs_offloaded(sizes, (name,), spread)[name]
    strategy = strategy_class(name)(blueprint)
    train(strategy, 1, ROWS, WIDTH)
    zero = strategy._layout._zero
    held = (held_by_stage_3 if name == "zero3" else held_by_stage_12)(zero)
    x = torch.randn(ROWS, WIDTH)
    strategy.micro_step(is_last=False)
    strategy.backward(strategy.module(x).square().sum())
    found = {
        "held": size_bytes(held + state_of(zero.optimizer)),
        "stepping": flat_step(sizes, -(-sizes.trainable // size)),
        "counted": need.host,
        "gradients": gradients_left(strategy, zero),
        "gradients_counted": need.gradients,
    }
    (out / f"{name}-{ranks.rank}.json").write_text(json.dumps(found))
