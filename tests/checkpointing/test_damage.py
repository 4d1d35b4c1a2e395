"""What a disk, or someone at it, may do to a checkpoint: never silent, always named."""

import os
import random
import shutil

import pytest

from checkpointing import DamagedCheckpointError, NoCheckpointError

SHARD = "r00001.safetensors"


@pytest.fixture
def store(kit, tmp_path):
    store = kit.store_at(tmp_path / "store")
    state = kit.sample_state(1)
    kit.run_ranks(2, lambda ranks: kit.save_state(store, 1, state, ranks))
    return store


def load_all(store):
    with store.open(1) as reader:
        for spec in reader.manifest.specs():
            reader.read(spec.fqn, spec.key, 0, spec.numel)
        return reader.verify()


def assert_damaged(store, name):
    """Loading raises, verifying lists it, and both name the file."""
    with pytest.raises(DamagedCheckpointError) as caught:
        load_all(store)
    assert caught.value.path == store.path(1) / name
    assert name in str(caught.value)
    problems = store.verify(1)
    assert problems
    assert all(str(store.path(1) / name) in problem for problem in problems)


@pytest.mark.parametrize("name", [SHARD, "manifest.json"])
@pytest.mark.parametrize("keep", [0, 1, 7, 8, 300, 0.5, -1])
def test_truncated(store, name, keep):
    path = store.path(1) / name
    size = path.stat().st_size
    length = int(size * keep) if isinstance(keep, float) else keep % size
    os.truncate(path, length)
    assert_damaged(store, name)


@pytest.mark.parametrize("name", [SHARD, "manifest.json"])
def test_extended(store, name):
    with (store.path(1) / name).open("ab") as file:
        file.write(b"\0")
    assert_damaged(store, name)


@pytest.mark.parametrize("name", [SHARD, "manifest.json"])
def test_missing(store, name):
    (store.path(1) / name).unlink()
    assert_damaged(store, name)


@pytest.mark.parametrize("name", [SHARD, "manifest.json"])
def test_a_link_instead_of_a_file(store, name, tmp_path):
    path = store.path(1) / name
    shutil.move(path, tmp_path / name)
    path.symlink_to(tmp_path / name)
    assert_damaged(store, name)


@pytest.mark.parametrize("name", [SHARD, "manifest.json"])
def test_a_folder_instead_of_a_file(store, name):
    (store.path(1) / name).unlink()
    (store.path(1) / name).mkdir()
    assert_damaged(store, name)


def test_a_flipped_bit_anywhere_in_the_data_is_found_on_loading(kit, store):
    path = store.path(1) / SHARD
    intact = path.read_bytes()
    rng = random.Random(0)
    start = 4096  # the data; one file's header is short
    positions = {start, len(intact) - 1, *(rng.randrange(start, len(intact)) for _ in range(150))}
    for position in sorted(positions):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert_damaged(store, SHARD)
    path.write_bytes(intact)
    kit.assert_holds(store, 1, kit.sample_state(1))


def test_a_flipped_bit_in_the_header_is_found_by_verify(kit, store):
    path = store.path(1) / SHARD
    intact = path.read_bytes()
    for position in [0, 7, 8, 100, 4095]:
        damaged = bytearray(intact)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        first = position // kit.BLOCK_BYTES * kit.BLOCK_BYTES
        block = f"bytes [{first}, {first + kit.BLOCK_BYTES})"
        (line,) = store.verify(1)
        assert line.startswith(f"{path}: {block} do not match their checksum (CRC-32 ")


def test_verify_lists_all_damage(store):
    path = store.path(1) / SHARD
    damaged = bytearray(path.read_bytes())
    damaged[5] ^= 1
    damaged[2500] ^= 1
    path.write_bytes(damaged)
    (store.path(1) / "r00000.safetensors").unlink()
    assert [problem.rsplit("/", 1)[1].split(":")[0] for problem in store.verify(1)] == [
        "r00000.safetensors",
        SHARD,
        SHARD,
    ]


def test_swapped_shards(kit, tmp_path):
    """Two shards of the same size and layout: only the checksums know."""
    store = kit.store_at(tmp_path / "store")
    spec = kit.TensorSpec(fqn="w", key="fp32", shape=(1000,), dtype="F32")
    data = kit.torch.arange(1000, dtype=kit.torch.float32)
    kit.run_ranks(2, lambda ranks: kit.save_state(store, 1, [(spec, data)], ranks))
    first, second = (store.path(1) / f"r0000{rank}.safetensors" for rank in (0, 1))
    assert first.stat().st_size == second.stat().st_size
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    with pytest.raises(DamagedCheckpointError, match=r"r00000.safetensors: bytes \[\d+, \d+\)"):
        load_all(store)
    assert {problem.split(": ")[0] for problem in store.verify(1)} == {str(first), str(second)}


def test_a_shard_of_another_step(kit, store):
    state = kit.sample_state(2)
    kit.run_ranks(2, lambda ranks: kit.save_state(store, 2, state, ranks))
    shutil.copy(store.path(2) / SHARD, store.path(1) / SHARD)
    assert_damaged(store, SHARD)


def test_a_manifest_of_another_step(kit, store):
    kit.save_state(store, 2, kit.sample_state(1))
    shutil.copy(store.path(2) / "manifest.json", store.path(1) / "manifest.json")
    with pytest.raises(DamagedCheckpointError, match="is of step 2, not of step 1"):
        store.open(1)


def test_a_shard_of_another_attempt(kit, store, tmp_path):
    """Of the same values it is the same file; of others it is damage, whatever its step."""
    for seed, name in ((1, "same"), (2, "other")):
        other = kit.store_at(tmp_path / name)
        kit.run_ranks(2, lambda ranks: kit.save_state(other, 1, kit.sample_state(seed), ranks))  # noqa: B023
        shutil.copy(other.path(1) / SHARD, store.path(1) / SHARD)
        problems = store.verify(1)
        assert bool(problems) == (name == "other"), problems
    assert problems[0].startswith(f"{store.path(1) / SHARD}: bytes [")


def test_a_shard_that_another_one_was_copied_over(store):
    shutil.copy(store.path(1) / "r00000.safetensors", store.path(1) / SHARD)
    assert_damaged(store, SHARD)


def test_two_tensors_of_one_length_that_changed_places(kit, tmp_path):
    store = kit.store_at(tmp_path / "store")
    state = [
        (
            kit.TensorSpec(fqn=name, key="fp32", shape=(3 * kit.BLOCK_BYTES,), dtype="U8"),
            kit.torch.full((3 * kit.BLOCK_BYTES,), value, dtype=kit.torch.uint8),
        )
        for value, name in enumerate("ab")
    ]
    kit.save_state(store, 1, state)
    path = store.path(1) / "r00000.safetensors"
    content = path.read_bytes()
    half = 3 * kit.BLOCK_BYTES
    path.write_bytes(content[: -2 * half] + content[-half:] + content[-2 * half : -half])
    assert_damaged(store, "r00000.safetensors")


def test_a_foreign_file_in_the_folder_is_neither_read_nor_taken_for_damage(kit, store):
    (store.path(1) / "r00002.safetensors").write_bytes(b"\xff" * 100)
    assert store.verify(1) == []
    kit.assert_holds(store, 1, kit.sample_state(1))


def test_a_link_instead_of_the_folder_is_no_checkpoint(store, tmp_path):
    shutil.move(store.path(1), tmp_path / "aside")
    store.path(1).symlink_to(tmp_path / "aside")
    with pytest.raises(NoCheckpointError):
        store.open(1)


def test_a_pipe_instead_of_a_file_is_not_waited_for(store):
    (store.path(1) / SHARD).unlink()
    os.mkfifo(store.path(1) / SHARD)
    assert_damaged(store, SHARD)


def test_a_header_that_says_to_be_huge_is_named_and_not_believed(kit, store):
    """The manifest says where the tensors lie: nothing is allocated by what the header says."""
    path = store.path(1) / SHARD
    path.write_bytes((1 << 60).to_bytes(8, "little") + path.read_bytes()[8:])
    (line,) = store.verify(1)
    assert line.startswith(f"{path}: bytes [0, {kit.BLOCK_BYTES}) do not match their checksum")


def test_a_huge_manifest_is_refused_before_memory_is_made_for_it(store):
    os.truncate(store.path(1) / "manifest.json", 1 << 40)
    with pytest.raises(DamagedCheckpointError, match="has 1099511627776 bytes"):
        store.open(1)


def test_a_zeroed_page(store):
    path = store.path(1) / SHARD
    content = bytearray(path.read_bytes())
    content[4096:4200] = bytes(104)
    path.write_bytes(content)
    assert_damaged(store, SHARD)


def test_an_edited_manifest(store):
    path = store.path(1) / "manifest.json"
    path.write_text(path.read_text().replace('"epoch":3', '"epoch":4'))
    with pytest.raises(DamagedCheckpointError, match=r"manifest.json: does not match its SHA-256"):
        store.open(1)


def test_a_read_error_is_damage_and_a_missing_permission_is_not(kit, store):
    import errno

    for code, kind in [(errno.EIO, DamagedCheckpointError), (errno.EACCES, PermissionError)]:

        def refuse(number, name, code=code):
            if name == "pread":
                raise OSError(code, "injected")

        watched = kit.store_at(store.folder, kit.WatchedFiles(before=refuse))
        with pytest.raises(kind):
            watched.open(1)


def test_a_shard_that_vanishes_while_open_is_damage(store):
    with store.open(1) as reader:
        (store.path(1) / "r00000.safetensors").unlink()
        with pytest.raises(DamagedCheckpointError, match=r"r00000.safetensors: cannot be read"):
            reader.read("net.0.weight", "fp32", 0, 1)


def test_a_shard_cut_off_while_open_is_damage(store):
    with store.open(1) as reader:
        os.truncate(store.path(1) / "r00000.safetensors", 4200)
        with pytest.raises(DamagedCheckpointError, match="are missing") as caught:
            reader.read("net.0.weight", "fp32", 0, 273)
        assert "fp32/net.0.weight" in caught.value.__notes__[0]
