#!/usr/bin/env bash
# lightning 2.6.6, torch 2.13.0: a fit that SIGTERM has broken off ends its process with exit code 0.
#
# One would guess: a program that is told to end in the middle of its work ends by the signal (143),
# as Python without a handler does, or with another code that says so.
# What happens: Trainer catches the signal, leaves after the batch under way, and the process ends
# with 0 and without a traceback, as after the last epoch; no checkpoint is written. A batch system or
# a workflow that goes by exit codes takes the job for completed. `trainer.received_sigterm` tells.
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet lightning==2.6.6

cat > train.py <<'PY'
import time
from pathlib import Path
import lightning
import torch

class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, index):
        time.sleep(0.05)
        Path("step").write_text(str(self.global_step))
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

trainer = lightning.Trainer(
    max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
    enable_model_summary=False, default_root_dir="out",
)
try:
    trainer.fit(Model(), torch.utils.data.DataLoader(torch.randn(400, 4), batch_size=1))
finally:
    Path("received").write_text(str(trainer.received_sigterm))
PY

cat > stop.py <<'PY'
import signal, subprocess, sys, time
from importlib.metadata import version
from pathlib import Path

process = subprocess.Popen([sys.executable, "train.py"], stdout=2, stderr=2)
end = time.monotonic() + 300
while not (Path("step").exists() and int(Path("step").read_text() or 0) >= 10):
    if process.poll() is not None or time.monotonic() > end:
        raise SystemExit("the training did not get to its tenth step")
    time.sleep(0.05)
process.send_signal(signal.SIGTERM)
code = process.wait(timeout=120)
step = int(Path("step").read_text())
received = Path("received").read_text()
saved = len(list(Path("out").rglob("*.ckpt"))) if Path("out").exists() else 0
print("lightning", version("lightning"), "torch", version("torch"))
print(f"SIGTERM in step {step} of 400: exit code {code}, {saved} checkpoints, received_sigterm {received}")
sys.exit(not (code == 0 and step < 399 and saved == 0 and received == "True"))
PY
venv/bin/python stop.py
