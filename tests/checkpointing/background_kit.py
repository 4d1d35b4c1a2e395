"""What the tests of saves in the background share."""

import sys
import time
from pathlib import Path

import checkpointing
from checkpointing import Snapshot, start_save

ROOT = Path(checkpointing.__file__).parents[1]
BROKEN = (
    *(sys.executable, "-S", "-E", "-c"),
    f"import sys, runpy; sys.path.append({str(ROOT)!r}); sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')",
    str(Path(__file__).with_name("broken_writer.py")),
)


def start(kit, store, step, state, communicator, writer):
    return start_save(
        store,
        Snapshot(
            step=step,
            specs=kit.specs_of(state),
            fragments=kit.fragments_of(state, communicator.rank, communicator.world_size),
            state={"position": {"epoch": 3, "sample": 12345}, "lr": 0.1},
            created_by={"relaunch": "0.1.0"},
        ),
        communicator,
        writer,
    )


def wait_until(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
