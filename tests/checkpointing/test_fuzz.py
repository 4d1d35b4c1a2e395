"""Thousands of damaged and forged checkpoints: only this package's errors, in bounded memory."""

import copy
import hashlib
import json
import random
import tracemalloc

import pytest

from checkpointing import DamagedCheckpointError
from checkpointing.manifest_text import parse_manifest
from checkpointing.strict_json import canonical_text

MAX_BYTES = 32 * 1024 * 1024
NASTY = [
    *(None, True, -1, 0, 1, 7, 4096, 1 << 31, 1 << 63, 1 << 200, -(1 << 64), 0.5, 1e308),
    *("", "x", "../../etc/passwd", "r00000.safetensors", "F64", "\u2603", "0" * 5000),
    *([], {}, [[]], [1] * 100, {"a": 1}, [None], [-1], [1 << 70]),
]


def places(value, path=()):
    """Yield the path of every value inside a JSON document."""
    if path:
        yield path
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))


def forged(content, rng):
    """Change a few values as somebody would who also renews the SHA-256."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(list(places(content)))
        holder = content
        for key in path[:-1]:
            holder = holder[key]
        action = rng.random()
        if action < 0.15:
            del holder[path[-1]]
        elif action < 0.25 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[path[-1]]))
        else:
            holder[path[-1]] = copy.deepcopy(rng.choice(NASTY))
    content.pop("sha256", None)
    digest = hashlib.sha256(canonical_text(content).encode()).hexdigest()
    return canonical_text({**content, "sha256": digest}).encode()


def torn(text, rng):
    """Damage the bytes: flipped, cut off, doubled or mixed up."""
    text = bytearray(text)
    for _ in range(rng.randint(1, 5)):
        start, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        action = rng.randrange(5)
        if action == 0 and text:
            text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
        elif action == 1:
            del text[start:end]
        elif action == 2:
            text[start:start] = text[start : start + 200]
        elif action == 3:
            text[start:end] = bytes(rng.randrange(256) for _ in range(min(20, end - start)))
        else:
            text[start:start] = b"[" * rng.randrange(5000)
    return bytes(text)


@pytest.mark.parametrize("damage", [forged, torn])
@pytest.mark.parametrize("count", [700, pytest.param(8000, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_fuzzed_manifests(kit, tmp_path, damage, count):
    store = kit.store_at(tmp_path)
    kit.run_ranks(2, lambda ranks: kit.save_state(store, 1, kit.sample_state(), ranks))
    text = (store.path(1) / "manifest.json").read_bytes()
    content = json.loads(text)
    rng = random.Random(2)
    num_refused = 0
    tracemalloc.start()
    for _ in range(count):
        changed = damage(content if damage is forged else text, rng)
        try:
            parse_manifest(changed)
        except ValueError:
            num_refused += 1
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < MAX_BYTES
    # What is left is what nobody could tell: other words in what the caller stored for itself.
    assert num_refused > 0.8 * count


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


@pytest.mark.parametrize("count", [100, pytest.param(1200, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_a_flipped_bit_in_any_file_is_named_by_verify_and_never_read(kit, tmp_path, count):
    store = kit.store_at(tmp_path / "store")
    state = kit.sample_state(1)
    kit.run_ranks(2, lambda ranks: kit.save_state(store, 1, state, ranks))
    paths = sorted(store.path(1).iterdir())
    intact = {path: path.read_bytes() for path in paths}
    rng = random.Random(3)
    for _ in range(count):
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
