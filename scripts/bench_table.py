"""What all benchmarks print: a markdown table, and on what machine it was taken."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(*packages: str) -> str:
    """Return cores, kernel, Python and the versions of some packages, as one sentence."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return (
        f"{len(os.sched_getaffinity(0))} cores ({models[0] if models else platform.machine()}), "
        f"Linux {platform.release()}, "
        f"{', '.join([f'Python {platform.python_version()}', *versions])}."
    )


def load_average() -> str:
    """Return the load averages of 1, 5 and 15 minutes."""
    return f"Load average {', '.join(f'{load:.1f}' for load in os.getloadavg())}."
