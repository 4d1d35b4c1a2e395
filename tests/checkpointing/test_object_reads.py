"""Objects are read in few requests, and those side by side."""

import itertools
import uuid

import fsspec
import pytest
import torch

from checkpointing import CheckpointStore, DamagedCheckpointError, TensorSpec, place_at
from checkpointing.storage import object_files

BLOCK_BYTES = 701
NUMEL = 5000
STATE = [
    (
        TensorSpec(fqn="net.weight", key="fp32", shape=(NUMEL,), dtype="F32"),
        torch.randn(NUMEL, generator=torch.Generator().manual_seed(0)),
    )
]


@pytest.fixture
def url():
    place = f"memory://{uuid.uuid4().hex}/run"
    yield place
    fsspec.filesystem("memory").rm(place, recursive=True)


class Watched:
    """A file system that tells which ranges it was asked for at once."""

    def __init__(self, filesystem, harm=lambda part: part):
        self._filesystem, self._harm = filesystem, harm
        self.requests = []

    def cat_file(self, path, start, end):
        self.requests.append([(start, end)])
        return self._filesystem.cat_file(path, start, end)

    def cat_ranges(self, paths, starts, ends):
        self.requests.append(list(zip(starts, ends, strict=True)))
        parts = self._filesystem.cat_ranges(paths, starts, ends)
        return [*parts[:-1], self._harm(parts[-1])]

    def sizes_bytes(self):
        return [end - start for start, end in itertools.chain.from_iterable(self.requests)]

    def __getattr__(self, name):
        return getattr(self._filesystem, name)


@pytest.fixture
def saved(kit, url):
    place = place_at(url)
    store = CheckpointStore(place.folder, place.files, block_bytes=BLOCK_BYTES)
    kit.save_state(store, 1, STATE)
    return place


def opened(place, harm=lambda part: part):
    watched = Watched(place.files._filesystem, harm)
    files = object_files.ObjectFiles(watched, puts_whole=True)
    reader = CheckpointStore(place.folder, files, block_bytes=BLOCK_BYTES).open(1)
    watched.requests.clear()
    return reader, watched


def test_the_blocks_of_a_tensor_are_one_request_and_its_ends_one_each(saved):
    reader, watched = opened(saved)
    with reader:
        assert reader.read("net.weight", "fp32", 0, NUMEL).equal(STATE[0][1])
        assert len(watched.requests) <= 3
        watched.requests.clear()
        assert reader.read("net.weight", "fp32", 600, 4000).equal(STATE[0][1][600:4000])
        assert sum(watched.sizes_bytes()) == 3400 * 4


@pytest.mark.parametrize("at_once", [0, BLOCK_BYTES, 3 * BLOCK_BYTES, 10**9])
def test_as_much_is_read_at_once_as_files_say(saved, monkeypatch, at_once):
    monkeypatch.setattr(object_files.ObjectFiles, "worth_reading_bytes", at_once)
    reader, watched = opened(saved)
    with reader:
        assert reader.read("net.weight", "fp32", 0, NUMEL).equal(STATE[0][1])
        assert reader.verify() == []
    largest = max(watched.sizes_bytes())
    assert largest <= max(BLOCK_BYTES, at_once)
    assert largest >= min(at_once, 20_000)


@pytest.mark.parametrize("num_readers", [1, 2, 3, 8, 1000])
def test_several_readers_share_what_is_read_at_once(saved, monkeypatch, num_readers):
    """Each takes every so manyth section, as the ranks of a node do, and no block is read twice."""
    at_once = 12 * BLOCK_BYTES
    monkeypatch.setattr(object_files.ObjectFiles, "worth_reading_bytes", at_once)
    content, read_bytes, most = bytearray(4 * NUMEL), 0, 0
    for own in range(num_readers):
        reader, watched = opened(saved)
        with reader:
            for piece in reader.pieces("net.weight", "fp32", 0, NUMEL, num_readers=num_readers):
                if piece.section % num_readers == own:
                    target = memoryview(content)[piece.position :][: piece.size_bytes]
                    reader.read_piece(piece, target)
            (size_bytes,) = (record.size_bytes for record in reader.manifest.files)
        read_bytes += sum(watched.sizes_bytes())
        most = max([most, *watched.sizes_bytes()])
    assert bytes(content) == STATE[0][1].numpy().tobytes()
    assert read_bytes <= size_bytes
    assert most == max(1, 12 // num_readers) * BLOCK_BYTES


@pytest.fixture
def in_parts(monkeypatch):
    monkeypatch.setattr(object_files, "_FETCHED_BYTES", 1000)


def test_a_long_read_is_several_requests_at_once(saved, in_parts):
    reader, watched = opened(saved)
    with reader:
        assert reader.read("net.weight", "fp32", 0, NUMEL).equal(STATE[0][1])
    longest = max(watched.requests, key=len)
    assert len(longest) == 20
    assert all(end - start <= 1000 for start, end in longest)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(longest))


def test_a_part_that_is_short_is_asked_for_again(saved, in_parts):
    asked = []
    for harm in (lambda part: part, lambda part: part[:10]):
        reader, watched = opened(saved, harm)
        with reader:
            assert reader.read("net.weight", "fp32", 0, NUMEL).equal(STATE[0][1])
        asked.append(len(watched.requests))
    assert asked[1] == asked[0] + 1


def test_what_an_object_has_lost_is_missing(saved, in_parts):
    reader, watched = opened(saved)
    with reader:
        (record,) = reader.manifest.files
        path = str(saved.folder / "step-00000001" / record.name)
        watched.pipe_file(path, watched.cat_file(path, 0, 12_345))
        with pytest.raises(DamagedCheckpointError, match=r"\[12345, \d+\) are missing: it was cut"):
            reader.read("net.weight", "fp32", 0, NUMEL)


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (PermissionError("no"), OSError, "Permission denied"),
        (FileNotFoundError("gone"), DamagedCheckpointError, "cannot be read"),
        (RuntimeError("the store hiccuped"), OSError, "the store hiccuped"),
    ],
)
def test_a_part_that_fails_fails_the_read(saved, in_parts, error, raised, says):
    reader, _ = opened(saved, lambda part: error)
    with reader, pytest.raises(raised, match=says):
        reader.read("net.weight", "fp32", 0, NUMEL)


def test_damage_among_blocks_read_at_once_is_named_block_by_block(saved):
    reader, watched = opened(saved)
    with reader:
        (record,) = reader.manifest.files
        path = str(saved.folder / "step-00000001" / record.name)
        content = bytearray(watched.cat_file(path, 0, record.size_bytes))
        for at in (5 * BLOCK_BYTES + 3, 7 * BLOCK_BYTES):
            content[at] ^= 1
        watched.pipe_file(path, bytes(content))
        first, second = reader.verify()
        assert f"[{5 * BLOCK_BYTES}, {6 * BLOCK_BYTES})" in first
        assert f"[{7 * BLOCK_BYTES}, {8 * BLOCK_BYTES})" in second
        with pytest.raises(DamagedCheckpointError, match=rf"\[{5 * BLOCK_BYTES}, "):
            reader.read("net.weight", "fp32", 0, NUMEL)
