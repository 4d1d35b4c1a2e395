"""What the same bits depend on besides the run: the processor, its threads, and torch."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from checkpointing import JSON
from strategies.errors import some_of

_SHOWN = 3


def conditions(device: torch.device) -> dict[str, JSON]:
    """Return what has to be the same at every start; it is in every checkpoint of an exact run."""
    found: dict[str, JSON] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": _processor(device),
    }
    if device.type == "cuda":
        backends: Any = torch.backends
        found |= {
            "cuDNN": backends.cudnn.version(),
            "float32 matmuls": _precision(backends.cuda.matmul.fp32_precision),
            "float32 convolutions": _precision(backends.cudnn.conv.fp32_precision),
        }
    return found


def use_one_thread() -> None:
    """Compute with one thread, where OMP_NUM_THREADS does not ask for more.

    A kernel may sum in as many parts as there are threads, and on one rank there would be more of
    them than on each of several.
    """
    torch.set_num_threads(1)


def inexact_text(step: int, names: Sequence[str]) -> str:
    """Return what to report of a step in which sums may have been rounded."""
    return (
        f"step {step}: the gradients of {some_of(names, _SHOWN)} are so much larger than "
        "those of the step before that their sum may depend on its order: from here on the last "
        "bits may depend on the number of ranks"
    )


def _precision(name: str) -> str:
    return "ieee" if name == "none" else name


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}"


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    lines = (line.partition(":") for line in text.splitlines())
    models = [value.strip() for name, _, value in lines if name.strip() == "model name"]
    return models[0] if models else platform.machine()
