"""Thousands of damaged and forged checkpoints: only this package's errors, in bounded memory."""

import json
import random
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

import checkpointing
from checkpointing import DamagedCheckpointError

ROOT = Path(checkpointing.__file__).parents[1]
DRIVER = Path(__file__).with_name("fuzz_driver.py")


def fuzz(kit, kind, folder, count):
    """Return how many of so many damaged files were refused; any other error is a failure."""
    done = kit.run_python("-W", "ignore", DRIVER, kind, folder, count, timeout_s=1100)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["refused"] + found["accepted"] == count
    return found["refused"]


@pytest.mark.timeout(600)
def test_fuzzed_manifests(kit, tmp_path):
    store = kit.store_at(tmp_path)
    kit.run_ranks(2, lambda ranks: kit.save_state(store, 1, kit.sample_state(), ranks))
    # What is accepted nobody could tell: other words in what the caller stored for itself.
    assert fuzz(kit, "manifest", store.path(1), 10_000) > 9_000


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("model.safetensors", 4_000),
        (".metadata", 1_000),
        ("__0_0.distcp", 300),
        pytest.param(".metadata", 10_000, marks=pytest.mark.slow),
        pytest.param("__0_0.distcp", 10_000, marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(1200)
def test_fuzzed_headers_of_other_programs(kit, tmp_path, name, count):
    tensors = {"a": torch.ones(30), "b": torch.ones(2, 2)}
    if name == "model.safetensors":
        save_file(tensors, tmp_path / name)
    else:
        dcp.save(tensors, checkpoint_id=tmp_path)
    # What is accepted is a change of bytes that nothing refers to, or of a name or a shape.
    assert fuzz(kit, name, tmp_path, count) > count // 2


def read_all(kit, store, state):
    """Read every tensor; return the damaged file that stopped it, or None."""
    try:
        with store.open(1) as reader:
            for spec, tensor in state:
                read = reader.read(spec.fqn, spec.key, 0, spec.numel)
                assert kit.bits(read) == kit.bits(tensor), "a wrong value was handed out"
    except DamagedCheckpointError as error:
        return error.path
    return None


@pytest.mark.timeout(600)
def test_a_flipped_bit_in_any_file_is_named_by_verify_and_never_read(kit, tmp_path):
    store = kit.store_at(tmp_path / "store")
    state = kit.sample_state(1)
    kit.run_ranks(2, lambda ranks: kit.save_state(store, 1, state, ranks))
    paths = sorted(store.path(1).iterdir())
    intact = {path: path.read_bytes() for path in paths}
    rng = random.Random(3)
    for _ in range(1000):
        path = rng.choice(paths)
        damaged = bytearray(intact[path])
        position = rng.randrange(len(damaged))
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        (problem,) = store.verify(1)
        assert problem.startswith(f"{path}: ")
        if path.suffix == ".safetensors":
            first = position // kit.BLOCK_BYTES * kit.BLOCK_BYTES
            assert f"bytes [{first}, " in problem
        damage_found = read_all(kit, store, state)
        if damage_found is None:
            assert path.suffix == ".safetensors"
            assert position < 4096 + kit.BLOCK_BYTES, "only a header is not read"
        else:
            assert damage_found == path
        path.write_bytes(intact[path])
    kit.assert_holds(store, 1, state)
