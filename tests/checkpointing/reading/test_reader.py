import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpointing import ModelMismatchError
from checkpointing.reading import reader as reader_module


@pytest.fixture(scope="module")
def saved(kit, tmp_path_factory):
    store = kit.store_at(tmp_path_factory.mktemp("store"))
    state = kit.sample_state()
    kit.run_ranks(3, lambda ranks: kit.save_state(store, 1, state, ranks))
    return store, state


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_any_range_across_chunks_and_blocks(kit, saved, data):
    store, state = saved
    with store.open(1) as reader:
        for _ in range(5):
            spec, tensor = data.draw(st.sampled_from(state))
            start = data.draw(st.integers(0, spec.numel))
            end = data.draw(st.integers(start, spec.numel))
            loaded = reader.read(spec.fqn, spec.key, start, end)
            assert loaded.dtype == tensor.dtype
            assert loaded.shape == (end - start,)
            assert kit.bits(loaded) == kit.bits(tensor.reshape(-1)[start:end])


def test_read_into_writes_only_its_range(saved):
    store, state = saved
    tensor = state[0][1].reshape(-1)
    memory = torch.full((30,), 7.0)
    with store.open(1) as reader:
        reader.read_into("net.0.weight", "fp32", 80, 100, memory[5:25])
    assert torch.equal(memory[5:25], tensor[80:100])
    assert (memory[:5] == 7).all()
    assert (memory[25:] == 7).all()


def test_each_block_is_verified_once_and_only_what_is_needed_is_read(kit, saved):
    store, _ = saved
    read_bytes = []

    class Counting(kit.Files):
        def pread(self, fd, into, offset):
            count = super().pread(fd, into, offset)
            read_bytes.append(count)
            return count

    with kit.store_at(store.folder, Counting()).open(1) as reader:
        read_bytes.clear()
        reader.read("net.0.weight", "fp32", 0, 2)
        assert read_bytes == [kit.BLOCK_BYTES]
        read_bytes.clear()
        reader.read("net.0.weight", "fp32", 0, 2)
        assert read_bytes == []  # what was checked for the first two is still there


def test_many_shards_do_not_use_up_the_descriptors(kit, saved, monkeypatch):
    monkeypatch.setattr(reader_module, "_MAX_OPEN_FILES", 1)
    store, state = saved
    opened = set()

    class Noting(kit.Files):
        def open(self, path):
            fd = super().open(path)
            opened.add(fd)
            assert len(opened) <= 2  # the least recently used one is closed right after
            return fd

        def close(self, fd):
            opened.discard(fd)
            super().close(fd)

    kit.assert_holds(kit.store_at(store.folder, Noting()), 1, state)
    assert opened == set()


def test_has_and_spec(saved):
    store, state = saved
    with store.open(1) as reader:
        assert reader.has("frozen", "param")
        assert not reader.has("frozen", "fp32")
        assert reader.spec("frozen", "param") == state[5][0]
        with pytest.raises(ModelMismatchError, match="step-00000001 has no fp32 of frozen"):
            reader.read("frozen", "fp32", 0, 1)


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2), (0, 6)])
def test_a_range_outside_the_tensor(saved, start, end):
    store, _ = saved
    with (
        store.open(1) as reader,
        pytest.raises(ValueError, match=rf"\[{start}, {end}\) is not within the 5"),
    ):
        reader.read("net.0.bias", "fp32", start, end)


@pytest.mark.parametrize(
    "out", [torch.empty(4), torch.empty(5).double(), torch.empty(5, 1), torch.empty(10)[::2]]
)
def test_an_out_that_does_not_fit(saved, out):
    store, _ = saved
    with store.open(1) as reader, pytest.raises(ValueError, match="needs a contiguous tensor of 5"):
        reader.read_into("net.0.bias", "fp32", 0, 5, out)


def test_no_byte_is_read_twice_by_a_load_of_everything(kit, tmp_path):
    class Counting(kit.Files):
        num_bytes = 0

        def pread(self, fd, into, offset):
            found = super().pread(fd, into, offset)
            self.num_bytes += found
            return found

    specs = [
        kit.TensorSpec(fqn=f"t{i}", key="fp32", shape=(37 + i,), dtype="F32") for i in range(90)
    ]
    state = [(spec, kit.torch.randn(spec.shape)) for spec in specs]
    saved = kit.save_state(kit.store_at(tmp_path), 1, state)
    files = Counting()
    with kit.store_at(tmp_path, files).open(1) as reader:
        files.num_bytes = 0  # the manifest
        for spec in specs:
            reader.read(spec.fqn, spec.key, 0, spec.numel)
    data_bytes = sum(spec.size_bytes for spec in specs)
    assert data_bytes <= files.num_bytes < data_bytes + kit.BLOCK_BYTES
    assert saved.size_bytes > data_bytes
