"""What a checkpoint says is never run: seen by Python's own audit of what runs code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import checkpointing

ROOT = Path(checkpointing.__file__).parents[1]

# Whatever runs code, or finds it by name, tells the audit hook so.
READ = """
import sys
from pathlib import Path
from checkpointing import CheckpointError, CheckpointStore, open_folder, take_inventory

WATCHED = ("exec", "compile", "import", "os.system", "os.exec", "os.fork", "os.posix_spawn",
           "subprocess.Popen", "pickle.find_class", "marshal.loads", "ctypes.dlopen")
seen = []

def read(folder):
    store = CheckpointStore(folder)
    try:
        take_inventory(store)
        store.verify(1)
        with store.open(1) as reader:
            for spec in reader.manifest.specs():
                reader.read(spec.fqn, spec.key, 0, spec.numel)
            return reader.manifest.state["note"]
    except CheckpointError as error:
        return type(error).__name__

read(Path(sys.argv[1]))  # what is imported late is imported now
sys.addaudithook(lambda event, given: event in WATCHED and seen.append((event, str(given)[:99])))
for folder in sys.argv[2:]:
    print(read(Path(folder)))
if WORKS:
    eval("1 + 1")
print(seen)
"""

HOSTILE = "__import__('os').system('touch pwned')"
PICKLE = b"cos\nsystem\n(S'touch pwned'\ntR."


def make(kit, folder, note):
    store = kit.store_at(folder)
    state = kit.sample_state()
    spec = kit.TensorSpec(fqn=note, key="fp32", shape=(3,), dtype="F32")
    state.append((spec, kit.torch.ones(3)))
    kit.save_checkpoint(
        store,
        kit.Snapshot(
            step=1,
            specs=kit.specs_of(state),
            fragments=kit.fragments_of(state),
            state={"note": note, "__reduce__": ["os.system", "touch pwned"]},
            created_by={"module": "os", "call": HOSTILE},
        ),
        kit.LocalCommunicator(),
    )
    return store.path(1)


@pytest.mark.parametrize("works", [False, True], ids=["nothing runs", "the audit sees what runs"])
def test_a_hostile_checkpoint_runs_nothing(kit, tmp_path, works):
    make(kit, tmp_path / "plain", "plain")
    make(kit, tmp_path / "hostile", HOSTILE)
    pickled = make(kit, tmp_path / "pickled", "x")
    (pickled / "manifest.json").write_bytes(PICKLE)
    shard = make(kit, tmp_path / "shard", "x") / "r00000.safetensors"
    shard.write_bytes(PICKLE + shard.read_bytes()[len(PICKLE) :])
    zipped = make(kit, tmp_path / "cut", "x") / "r00000.safetensors"
    zipped.write_bytes(PICKLE)
    names = ("plain", "hostile", "pickled", "shard", "cut")
    done = subprocess.run(
        [sys.executable, "-c", READ.replace("WORKS", str(works)), *(tmp_path / n for n in names)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *found, seen = done.stdout.splitlines()
    damaged = "DamagedCheckpointError"
    # The shard's own header is not read: the manifest says where the tensors lie.
    assert found == [HOSTILE, damaged, "x", damaged]
    assert (seen != "[]") == works
    assert not (tmp_path / "pwned").exists()
