"""A language model of transformers, trained on its embeddings and asked to generate."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from task import CLASSES, Samples, adamw, make_job
from transformers import GPT2Config, GPT2LMHeadModel

from launcher.contract.environment import RankEnvironment
from strategies import process_groups

torch.set_num_threads(1)
out, strategies = Path(sys.argv[1]), sys.argv[2].split(",")
environment = RankEnvironment.from_environ(os.environ)


def gpt2():
    torch.manual_seed(5)
    config = GPT2Config(vocab_size=CLASSES, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config)


def measure(model, batch):
    tokens, labels, _ = batch
    made = model.generate(tokens, max_new_tokens=3, do_sample=False, pad_token_id=0)
    return {"same": made[:, -1] == labels, "sum": made.sum(1)}


told = {}
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for strategy in strategies:
        job = make_job(ranks, strategy, out / strategy, model=gpt2, optimizer=adamw, epochs=1)
        assert isinstance(job.model, GPT2LMHeadModel)
        if ranks.is_coordinator:  # what only tells may be asked for by one rank
            assert job.model.config.n_layer == 2
            assert len(job.model.transformer.h) == 2
            assert job.model.get_input_embeddings() is not None
        norms, found = [], {}
        for step in job:
            for tokens, labels, _ in step:
                embedded = job.model.get_input_embeddings()(tokens)
                logits = job.model(inputs_embeds=embedded, use_cache=False).logits[:, -1]
                step.backward(F.cross_entropy(logits, labels, reduction="sum"), count=len(labels))
            norms.append(step.outcome.grad_norm)
            if step.evaluation_due:
                found = step.evaluate(Samples(11), measure)
        told[strategy] = {"norms": norms, "found": dict(found)}
    (out / f"told-{ranks.rank}.json").write_text(json.dumps(told))
