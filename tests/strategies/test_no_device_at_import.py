"""Importing what a rank needs asks for no device: a fork of the warm server could use none then."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROBE = """
import json, pkgutil, sys, threading, traceback
from importlib import import_module
import torch

asked = []
def told(name):
    def answer(*args, **kwargs):
        asked.append([name, traceback.format_stack(limit=4)[0]])
        return {"is_available": False, "device_count": 0}.get(name)
    return answer

for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "set_device"):
    setattr(torch.cuda, name, told(name))
threads = threading.active_count()
modules = ["launcher.training.run"]
for root in ("strategies", "checkpointing"):
    package = import_module(root)
    modules += [m.name for m in pkgutil.walk_packages(package.__path__, root + ".")]
for module in modules:
    import_module(module)
print(json.dumps([len(modules), asked, threading.active_count() - threads]))
"""


def test_no_module_of_a_rank_asks_for_a_device() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    num_modules, asked, num_threads = json.loads(done.stdout.splitlines()[-1])
    assert num_modules > 100
    assert asked == []
    assert num_threads == 0
