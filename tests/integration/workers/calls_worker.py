"""Losses that are computed in many ways from one model; rank 0 writes gradient norms and words.

Arguments: a folder, strategies with commas between, and "raw" for what goes beside the engine.
"""

import json
import os
import sys
from pathlib import Path

import torch
from task import make_job
from torch import nn
from torch.utils.data import TensorDataset

from launcher.contract.environment import RankEnvironment
from strategies import ConfigError, process_groups
from strategies.parallel.calls.bypass import explanation

torch.set_num_threads(1)
out, strategies = Path(sys.argv[1]), sys.argv[2].split(",")
environment = RankEnvironment.from_environ(os.environ)


class Net(nn.Module):
    """Two blocks, a part that a method hands out, and methods that compute."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2)])
        self.head = nn.Linear(8, 8)
        self.temperature = 2.0

    def encode(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x

    def embedding(self):
        return self.embed

    def forward(self, x=None, embedded=None):
        embedded = self.embed(x) if embedded is None else embedded
        return self.head(self.encode(embedded)) * self.temperature

    def through_itself(self, x):
        return self(x)

    def sample(self):
        return self(torch.ones(1, 8))

    def generate(self, x):
        for _ in range(3):
            x = torch.tanh(self(x))
        return self.head(x) + x @ self.embed.weight


def by_layers(model, x):
    for layer in model.layers:
        x = x + layer(x)
    return x


def by_modules_of_layers(model, x):
    for number in range(len(model.layers)):
        x = x + model.layers[number][1](model.layers[number][0](x))
    return x


def gathered(model, x):
    """Leave the root's weights whole, as an evaluation does."""
    with torch.no_grad():
        model(x)


def asks_for_gradient(x):
    return x.clone().requires_grad_(True)


def raw_first(model, net, x, inputs=lambda x: x):
    beside = net.head(x)
    return model(inputs(x)) + beside


# All equal to `forward`: (job.model, the module that the script has kept, x) -> the model's result.
SAME = {
    "forward": lambda m, net, x: m(x),
    "module": lambda m, net, x: m.module(x),
    "forward by name": lambda m, net, x: m.forward(x),
    "parts": lambda m, net, x: m.head(m.encode(m.embed(x))) * m.temperature,
    "layers": lambda m, net, x: m.head(by_layers(m, m.embed(x))) * m.temperature,
    "deep parts": lambda m, net, x: m.head(by_modules_of_layers(m, m.embed(x))) * m.temperature,
    "a part from a method": lambda m, net, x: m(embedded=m.embedding()(x)),
    "through itself": lambda m, net, x: m.through_itself(x),
}
# Each with values of its own, which are those of `single`.
OTHER = {
    "two calls": lambda m, net, x: m(x) + m(x * 0.5),
    "recursive": lambda m, net, x: m(m(x)),
    "a method that calls the model often": lambda m, net, x: m.generate(x),
    "with a part": lambda m, net, x: m(x) + m.head(x),
    "a part first": lambda m, net, x: m.layers[0](x) + m(x),
    "a part, gradient of inputs": lambda m, net, x: m(asks_for_gradient(x)) + m.head(x),
}
# Beside the engine: equal to `single`, or refused.
RAW = {
    "raw forward": lambda m, net, x: net(x),
    "raw parts": lambda m, net, x: net.head(net.encode(net.embed(x))),
    "raw embed": lambda m, net, x: m(embedded=net.embed(x)),
    "raw embed, gathered": lambda m, net, x: (gathered(m, x), m(embedded=net.embed(x)))[1],
    "raw part first": raw_first,
    "raw part first, gathered": lambda m, net, x: (
        gathered(m, x),
        raw_first(m, net, x, asks_for_gradient),
    )[1],
    "raw part after": lambda m, net, x: m(x) + net.head(x),
    "called for nothing": lambda m, net, x: (m(x), net(x))[1],
    "a weight": lambda m, net, x: 0.01 * m.layers[0][0].weight.square().sum() + m(x),
}

generator = torch.Generator().manual_seed(3)
inputs = torch.randn(48, 8, generator=generator)
data = TensorDataset(inputs, inputs.sin())
made = []
told = {}


def model():
    made[:] = [Net()]
    return made[0]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def measure(model, batch):
    x, y = batch
    out = model.head(model.encode(model.embed(x))) + model.sample() + model.generate(x)
    return {"loss": (out - y).square().mean(1)}


with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:

    def attempt(strategy, what, compute):
        key = f"{strategy} {what}"
        job = make_job(
            ranks,
            strategy,
            out / f"{key} on {ranks.world_size}",
            model=model,
            optimizer=sgd,
            train=data,
            global_batch=16,
            epochs=1,
            max_grad_norm=None,
        )
        norms = []
        try:
            for step in job:
                for x, y in step:
                    loss = (compute(job.model, made[0], x) - y).square().sum()
                    step.backward(loss, count=len(x))
                norms.append(step.outcome.grad_norm)
            told[key] = norms
        except ConfigError as error:
            told[key] = str(error)
        except RuntimeError as error:
            told[key] = explanation(error, strategy) or f"not explained: {error}"
        finally:
            # Some loops were left, on all ranks, and the process goes on to the next.
            job.run.lockstep.stay()
        if what == "forward":
            told[f"{strategy} measured"] = job.test(data, measure)["test/loss"]

    for strategy in strategies:
        for what, compute in (RAW if sys.argv[3:] == ["raw"] else SAME | OTHER).items():
            attempt(strategy, what, compute)
    (out / f"told-{ranks.rank}.json").write_text(json.dumps(told))
    # A rank that ends the last loop early must not be gone while another still begins it.
    torch.distributed.barrier(group=ranks.host_group)
