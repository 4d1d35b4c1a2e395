"""Makes `kit.py` and the others available to the tests here, which are no package."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from checkpointing import BackgroundWriter


def _load(name):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"checkpointing_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def kit():
    return _load("kit")


@pytest.fixture
def saved(kit, tmp_path):
    """A store with one checkpoint of three ranks."""
    store = kit.store_at(tmp_path / "store")
    state = kit.sample_state()
    kit.run_ranks(3, lambda ranks: kit.save_state(store, 1, state, ranks))
    return store


@pytest.fixture(scope="session")
def disks():
    return _load("modelled_disk")


@pytest.fixture(scope="session")
def object_kit():
    return _load("object_kit")


@pytest.fixture(scope="session")
def background():
    return _load("background_kit")


@pytest.fixture
def writers():
    """Make writers; they are closed at the end."""
    made = []

    def make(*command):
        made.append(BackgroundWriter(command) if command else BackgroundWriter())
        return made[-1]

    yield make
    for writer in made:
        writer.close()


@pytest.fixture(params=["foreground", "background"])
def writer(request):
    """None where a test saves in the foreground."""
    if request.param == "foreground":
        yield None
        return
    writer = BackgroundWriter()
    yield writer
    writer.close()


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
