"""Makes `kit.py` available to the tests of this folder, which is not a package."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest


def _load_kit():
    spec = importlib.util.spec_from_file_location(
        "checkpointing_kit", Path(__file__).with_name("kit.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def kit():
    return _load_kit()


@pytest.fixture(autouse=True)
def no_leaked_descriptors():
    before = _open_files()
    yield
    assert _open_files() - before == set(), "the test leaks open files"


def _open_files():
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor of this listing itself
        if "step-" in target or "export" in target:
            found.add((name, target))
    return found
