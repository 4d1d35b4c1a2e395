#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: Trainer resumes an epoch of group_by_length with other samples.
#
# One would guess: `resume_from_checkpoint` in the middle of the second epoch skips the samples that
# the epoch has had and goes on with the rest, as it does for train_sampling_strategy="random".
# What happens: with "group_by_length" the epoch's order is drawn anew, from random numbers that are
# not those of its begin. As many batches as were trained are skipped, of another order: samples
# come twice in the epoch and as many never. Nothing is printed.
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0

cat > train.py <<'PY'
import json, os, sys
import torch
from transformers import Trainer, TrainingArguments

strategy, given = sys.argv[1], []

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Embedding(9, 1)
    def forward(self, input_ids, number):
        given.append(number.tolist())
        return {"loss": self.layer(input_ids).square().mean()}

def stacked(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    padded = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]
    return {"input_ids": torch.tensor(padded), "number": torch.tensor([r["number"] for r in rows])}

trainer = Trainer(
    model=Model(),
    args=TrainingArguments(
        output_dir=strategy, num_train_epochs=2, per_device_train_batch_size=2, use_cpu=True,
        train_sampling_strategy=strategy, save_steps=9, remove_unused_columns=False,
        report_to=[], disable_tqdm=True,
    ),
    train_dataset=[{"input_ids": [1] * (1 + n * 7 % 11), "number": n} for n in range(12)],
    data_collator=stacked,
)
trainer.train(resume_from_checkpoint=f"{strategy}/checkpoint-9" if "again" in sys.argv else None)
print(json.dumps(given))
PY

cat > compare.py <<'PY'
import json, subprocess, sys
from importlib.metadata import version

def run(*arguments):
    command = [sys.executable, "train.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout.splitlines()[-1])

print("transformers", version("transformers"), "torch", version("torch"))
differs = {}
for strategy in ("random", "group_by_length"):
    whole, rest = run(strategy), run(strategy, "again")
    had, wanted = sum(whole[6:9], []), whole[9:]
    print(f"{strategy}: second epoch {whole[6:9]} | {wanted}, resumed after the bar: {rest}")
    now = sum(rest, [])
    print(f"  twice: {sorted(set(had) & set(now))}, never: {sorted(set(range(12)) - set(had + now))}")
    differs[strategy] = rest != wanted
as_described = differs == {"random": False, "group_by_length": True}
print("as described" if as_described else "it has changed")
sys.exit(not as_described)
PY
venv/bin/python compare.py
