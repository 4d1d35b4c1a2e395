#!/usr/bin/env bash
# lightning 2.6.6, torchdata 0.11.0, torch 2.13.0: resumed in the middle of an epoch, a Trainer on
# two processes reads other samples than the run without an interruption, although its loader is a
# StatefulDataLoader; some samples come twice and others never.
#
# One would guess: Lightning stores the state of a StatefulDataLoader in its checkpoints, so a fit
# that is resumed from the checkpoint of step 4 reads what is left of the epoch: the same batches as
# steps 5 to 8 of a fit that ran through. So it is on one process, with shuffle=True and without,
# and on two processes without shuffle. If it cannot be done with shuffle, something says so.
# What happens: on two processes with shuffle=True the resumed fit goes on in another permutation.
# Of the 32 samples of the epoch, those of steps 1 to 4 and of the resumed steps together are fewer
# than 32 different ones. No warning, and nothing in the log, speaks of the loader. Seen:
#     processes 1, shuffle False: 16 samples, 16 different, the same batches as in one fit
#     processes 1, shuffle True:  16 samples, 16 different, the same batches as in one fit
#     processes 2, shuffle False: 32 samples, 32 different, the same batches as in one fit
#     processes 2, shuffle True:  32 samples, 24 different, OTHER batches than in one fit
# (Under two processes Lightning puts a DistributedSampler into the loader; with shuffle=True the
# state that is restored belongs to the order of another sampler.)
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet lightning==2.6.6 torchdata==0.11.0

cat > fit.py <<'PY'
import json, logging, os, sys, warnings
import lightning.pytorch as pl
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

processes, shuffle, mode = int(sys.argv[1]), sys.argv[2] == "True", sys.argv[3]
told = []

class Record(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())

logging.getLogger("lightning.pytorch").addHandler(Record())

class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 16 * processes
    def __getitem__(self, index):
        return torch.tensor(float(index))

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.batches = torch.nn.Linear(1, 1), []
    def training_step(self, batch, number):
        self.batches.append([int(one) for one in batch])
        return self.layer(batch[:, None]).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

pl.seed_everything(1, verbose=False)
model = Model()
saves = pl.callbacks.ModelCheckpoint("saved", "{step}", every_n_train_steps=4, save_top_k=-1)
trainer = pl.Trainer(
    accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto",
    max_steps=4 if mode == "first" else 8, callbacks=[saves], logger=False,
    enable_progress_bar=False, enable_model_summary=False,
)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    loader = StatefulDataLoader(Numbers(), batch_size=2, shuffle=shuffle)
    at = "saved-first/step=4.ckpt" if mode == "resumed" else None
    trainer.fit(model, loader, ckpt_path=at)
told += [str(one.message) for one in warned]
spoken = [text for text in told if "sampler" in text.lower() or "stateful" in text.lower()]
with open(f"{mode}-{trainer.global_rank}.json", "w") as file:
    json.dump([model.batches, spoken], file)
PY

export OMP_NUM_THREADS=1
for processes in 1 2; do
  for shuffle in False True; do
    mkdir -p "case-$processes-$shuffle" && cd "case-$processes-$shuffle"
    for mode in whole first resumed; do
      timeout 200 ../venv/bin/python -m torch.distributed.run --standalone \
        --nproc-per-node "$processes" ../fit.py "$processes" "$shuffle" "$mode" > out.log 2>&1 ||
        { cat out.log; exit 1; }
      if [ "$mode" = first ]; then mv saved saved-first; else rm -rf saved; fi
    done
    cd ..
  done
done

venv/bin/python - <<'PY'
import json
import sys
from importlib.metadata import version

print(*(f"{name} {version(name)}" for name in ("lightning", "torchdata", "torch")))
as_described = True
for processes in (1, 2):
    for shuffle in (False, True):
        read = {}
        for mode in ("whole", "first", "resumed"):
            found = [
                json.load(open(f"case-{processes}-{shuffle}/{mode}-{rank}.json"))
                for rank in range(processes)
            ]
            read[mode], spoken = [one[0] for one in found], [one[1] for one in found]
        same = [one[4:] for one in read["whole"]] == read["resumed"]
        both = [n for mode in ("first", "resumed") for rank in read[mode] for b in rank for n in b]
        word = "the same batches as" if same else "OTHER batches than"
        print(
            f"processes {processes}, shuffle {shuffle}: {len(both)} samples, "
            f"{len(set(both))} different, {word} in one fit; said of the loader: {spoken}"
        )
        is_odd = processes == 2 and shuffle
        as_described &= same != is_odd and not any(spoken)
        as_described &= (len(set(both)) < len(both)) == is_odd
print("as described" if as_described else "it has changed")
sys.exit(not as_described)
PY
