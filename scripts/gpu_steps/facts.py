"""Which card, driver and libraries these are."""

import importlib.metadata
import platform
import shutil
import subprocess

import torch
from kit import DEVICE, ON_GPU, say

say("python", platform.python_version())
for name in ("torch", "accelerate", "deepspeed", "transformers"):
    try:
        say(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        say(name, "not installed")
if ON_GPU:
    card = torch.cuda.get_device_properties(DEVICE)
    say("card", card.name)
    say("memory", round(card.total_memory / 2**30, 1), "GiB")
    say("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    say("driver", subprocess.run(asked, capture_output=True, text=True).stdout.strip())
else:
    say("card", "none: tiny sizes on the CPU, whose numbers mean nothing")
for tool in ("nvcc", "gcc"):
    say(tool, shutil.which(tool) or "not there")
