"""A rank that saves in the background and is killed meanwhile: FOLDER WRITER_COMMAND..."""

import os
import signal
import sys
from pathlib import Path

import kit

from checkpointing import BackgroundWriter, Snapshot, start_save

store = kit.store_at(Path(sys.argv[1]))
state = kit.sample_state(2)
start_save(
    store,
    Snapshot(
        step=2,
        specs=kit.specs_of(state),
        fragments=kit.fragments_of(state),
        state={},
        created_by={},
    ),
    kit.LocalCommunicator(),
    BackgroundWriter(sys.argv[2:]),
)
print("started", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
