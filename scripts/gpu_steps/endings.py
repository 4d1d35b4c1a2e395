"""How runs end on a GPU: a notice in a step, a killed rank, a hang, an error of the device."""

import os
import signal
import subprocess
import time
from pathlib import Path

from kit import ON_GPU, OUT, lines_until, relaunch, say

HEAD = """
import os, signal, sys, time
import torch
from launcher import Run

def main(run):
    held = torch.empty(HELD, dtype=torch.uint8, device=run.device)
    job = run.prepare(
        model=lambda: torch.nn.Linear(64, 64),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        train=torch.utils.data.TensorDataset(torch.randn(4096, 64)),
        global_batch=8, micro_batch=8, epochs=1000, save_every="2 steps", log_every=1,
    )
    for step in job:
        for (x,) in step:
            print("begins", step.number, time.time(), flush=True)
            BODY
            step.backward(job.model(x).square().sum(), count=len(x))

Run.start(main)
"""
SLOW = "torch.cuda._sleep(10**9)" if ON_GPU else "time.sleep(0.5)"
STUCK = "torch.cuda._sleep(2**37); torch.cuda.synchronize()" if ON_GPU else "time.sleep(70)"


def script(name: str, body: str, held: int = 2**20) -> str:
    path = OUT / f"{name}.py"
    path.write_text(HEAD.replace("BODY", body).replace("HELD", str(held)))
    return str(path)


def used_mib() -> int:
    if not ON_GPU:
        return 0
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(asked, capture_output=True, text=True).stdout.split()[0])


def start(name: str, body: str, *words: str, held: int = 2**20) -> "subprocess.Popen[str]":
    folder = ("--run-dir", str(OUT / name), "--nproc-per-node", "1", "--strategy", "single")
    return relaunch(*folder, *words, script(name, body, held))


before = used_mib()
process = start("notice", SLOW)
for _ in lines_until(process, "begins 3"):
    pass
began_s = time.monotonic()
process.send_signal(signal.SIGTERM)
printed = process.communicate()[0]
took_s = time.monotonic() - began_s
say("SIGTERM in a step: exit code", process.returncode, passed=process.returncode == 75)
say(
    "SIGTERM in a step: to the end",
    took_s,
    "s",
    passed=took_s < 5 if ON_GPU else None,
    target="< 5",
)

body = (
    "if step.number == 5 and not os.path.exists(sys.argv[0] + '.killed'): "
    "open(sys.argv[0] + '.killed', 'w').write(str(time.time())); os.kill(os.getpid(), 9)"
)
process = start("killed", body, "--max-restarts", "1", held=20 * 2**30 if ON_GPU else 2**20)
back_s = float("nan")
killed = Path(str(OUT / "killed.py") + ".killed")
for line in lines_until(process, "begins 9"):
    killed_s = killed.read_text() if killed.exists() else ""  # empty until it is written
    if "begins" in line and killed_s and back_s != back_s:
        back_s = float(line.split()[-1]) - float(killed_s)
        back_s = float("nan") if back_s < 0 else back_s  # printed before it was killed
process.send_signal(signal.SIGTERM)
process.communicate()
say("kill -9 to the next step", back_s, "s", passed=back_s < 5 if ON_GPU else None, target="< 5")
time.sleep(1)
say("memory left behind", used_mib() - before, "MiB", passed=used_mib() - before < 512)

began_s = time.monotonic()
process = start("stuck", f"if step.number == 3: {STUCK}", "--hang-timeout", "5")
printed = process.communicate()[0]
print(printed)
took_s = time.monotonic() - began_s
stacks = list((OUT / "stuck").glob("logs/attempt-*/stacks.txt"))
is_named = any("stuck.py" in one.read_text() for one in stacks)
say("a hang: the line is named", is_named, passed=is_named)
say("a hang: exit code", process.returncode, passed=process.returncode not in (0, 75))
say("a hang: from the start to the end", took_s, "s", passed=took_s < 40)

if ON_GPU:
    wrong = "torch.zeros(4, device='cuda')[torch.tensor([9], device='cuda')].sum().item()"
    process = start("assert", f"if step.number == 3: {wrong}")
    printed = process.communicate()[0]
    print(printed)
    is_named = "device-side assert" in printed
    say("an assert on the device is named", is_named, passed=is_named)
    say("an assert on the device: exit code", process.returncode, passed=process.returncode == 1)
else:
    say("an assert on the device", "skipped: no GPU")
assert os.path.isdir(OUT)
