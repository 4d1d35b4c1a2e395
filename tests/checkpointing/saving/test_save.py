import json

import pytest
import safetensors
import safetensors.torch
import torch

from checkpointing import Fragment, SaveFailedError, Snapshot, TensorSpec, save_checkpoint


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_round_trip(kit, tmp_path, world_size):
    state = kit.sample_state()
    store = kit.store_at(tmp_path)
    saved = kit.run_ranks(world_size, lambda ranks: kit.save_state(store, 4, state, ranks))
    assert {s.path for s in saved} == {tmp_path / "step-00000004"}
    on_disk = sum(path.stat().st_size for path in saved[0].path.iterdir())
    assert {s.size_bytes for s in saved} == {on_disk}
    kit.assert_holds(store, 4, state)
    assert kit.leftovers(tmp_path) == []
    with store.open(4) as reader:
        assert reader.manifest.step == 4
        assert reader.manifest.state == {"position": {"epoch": 3, "sample": 12345}, "lr": 0.1}
        assert reader.manifest.created_by == {"relaunch": "0.1.0"}
        assert reader.verify() == []


def test_shards_are_plain_safetensors_with_page_aligned_data(kit, tmp_path):
    state = kit.sample_state()
    store = kit.store_at(tmp_path)
    kit.run_ranks(3, lambda ranks: kit.save_state(store, 4, state, ranks))
    tensors = {spec.name: tensor.reshape(-1) for spec, tensor in state}
    num_elements = 0
    for path in sorted(store.path(4).glob("*.safetensors")):
        with path.open("rb") as file:
            assert (8 + int.from_bytes(file.read(8), "little")) % 4096 == 0
        for name, data in safetensors.torch.load_file(path).items():
            tensor_name, _, bounds = name.rpartition("@")
            start, end = map(int, bounds.split(":"))
            assert kit.bits(data) == kit.bits(tensors[tensor_name][start:end])
            num_elements += len(data)
    assert num_elements == sum(len(tensor) for tensor in tensors.values())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.complex64, torch.int8])
def test_rarer_dtypes_are_plain_safetensors(kit, tmp_path, dtype):
    data = torch.arange(24, dtype=torch.uint8).view(dtype)
    spec = TensorSpec(fqn="x", key="buffer", shape=(len(data),), dtype=kit.dtype_name(dtype))
    store = kit.store_at(tmp_path)
    kit.save_state(store, 0, [(spec, data)])
    loaded = safetensors.torch.load_file(store.path(0) / "r00000.safetensors")
    (tensor,) = loaded.values()
    assert tensor.dtype == dtype
    assert kit.bits(tensor) == kit.bits(data)


def test_a_rank_that_holds_nothing_writes_no_file(kit, tmp_path):
    state = kit.sample_state()
    store = kit.store_at(tmp_path)

    def save(ranks):
        return save_checkpoint(
            store,
            Snapshot(
                step=1,
                specs=kit.specs_of(state),
                fragments=kit.fragments_of(state) if ranks.rank == 1 else [],
                state={},
                created_by={},
            ),
            ranks,
        )

    kit.run_ranks(2, save)
    names = sorted(path.name for path in store.path(1).iterdir())
    assert names == ["manifest.json", "r00001.safetensors"]
    kit.assert_holds(store, 1, state)


def test_a_state_without_elements_can_be_saved(kit, tmp_path):
    store = kit.store_at(tmp_path)
    state = [(TensorSpec(fqn="e", key="fp32", shape=(0,), dtype="F32"), torch.empty(0))]
    kit.save_state(store, 1, state)
    kit.assert_holds(store, 1, state)


def test_large_fragments_span_blocks_without_a_copy_of_all(kit, tmp_path):
    store = kit.CheckpointStore(tmp_path)
    data = torch.randn(3_000_001)
    spec = TensorSpec(fqn="big", key="fp32", shape=tuple(data.shape), dtype="F32")
    kit.save_state(store, 1, [(spec, data)])
    record = json.loads((store.path(1) / "manifest.json").read_text())["files"][0]
    assert record["block_bytes"] == 4 * 1024 * 1024
    assert len(record["crc32"]) == 3
    kit.assert_holds(store, 1, [(spec, data)])


def test_parameters_that_require_grad_are_saved(kit, tmp_path):
    data = torch.randn(6, requires_grad=True)
    spec = TensorSpec(fqn="w", key="fp32", shape=(6,), dtype="F32")
    fragment = Fragment(spec=spec, start=0, end=6, data=data)
    store = kit.store_at(tmp_path)
    save_checkpoint(
        store,
        Snapshot(
            step=1,
            specs=[spec],
            fragments=iter([fragment]),
            state={},
            created_by={},
        ),
        kit.LocalCommunicator(),
    )
    kit.assert_holds(store, 1, [(spec, data.detach())])


def change_gap(fragments):
    return fragments[:-1]


def change_twice(fragments):
    return [*fragments, fragments[0]]


def change_overlap(fragments):
    spec = fragments[0].spec
    return [*fragments, Fragment(spec=spec, start=0, end=2, data=torch.zeros(2))]


def change_foreign(fragments):
    spec = TensorSpec(fqn="foreign", key="fp32", shape=(1,), dtype="F32")
    return [*fragments, Fragment(spec=spec, start=0, end=1, data=torch.zeros(1))]


def change_shape(fragments):
    first = fragments[0]
    spec = TensorSpec(fqn=first.spec.fqn, key="fp32", shape=(7 * 13 * 3,), dtype="F32")
    changed = Fragment(spec=spec, start=first.start, end=first.end, data=first.data)
    return [changed, *fragments[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_gap, r"elements \[\d+, \d+\) are not covered"),
        (change_twice, "given 2 times"),
        (change_overlap, r"fp32/net.0.weight: elements \[0, 2\) are covered twice"),
        (change_foreign, "a rank wrote TensorSpec.*foreign.* coordinator's specs have None"),
        (change_shape, r"shape=\(273,\).*shape=\(7, 13, 3\)"),
    ],
)
def test_coverage_is_proved_before_the_commit(kit, tmp_path, change, message):
    state = kit.sample_state()
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, state)

    def save(ranks):
        fragments = kit.fragments_of(state, ranks.rank, 2)
        return save_checkpoint(
            store,
            Snapshot(
                step=2,
                specs=kit.specs_of(state),
                fragments=change(fragments) if ranks.rank == 0 else fragments,
                state={},
                created_by={},
            ),
            ranks,
        )

    errors = kit.run_ranks(2, save)
    assert [type(error) for error in errors] == [SaveFailedError] * 2
    assert str(errors[0]) == str(errors[1])
    with pytest.raises(SaveFailedError, match=message):
        raise errors[0]
    assert store.steps() == [1]
    assert kit.leftovers(tmp_path) == []
    kit.assert_holds(store, 1, state)


def test_the_same_step_can_be_saved_again(kit, tmp_path):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state(1))
    (store.path(1) / "r00000.safetensors").unlink()
    kit.save_state(store, 1, kit.sample_state(2))
    kit.assert_holds(store, 1, kit.sample_state(2))
    assert kit.leftovers(tmp_path) == []


def test_every_tensor_lies_at_a_multiple_of_its_item(kit, tmp_path):
    """Else the readers that map the file fail on some of them; the odd-sized mask comes last."""
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state())
    with store.open(1) as reader:
        for tensor in reader.manifest.tensors:
            assert [chunk.offset % tensor.spec.itemsize for chunk in tensor.chunks] in ([], [0])


def test_ranks_may_hold_any_part_of_a_tensor(kit, tmp_path):
    """Rank 0 the last third, rank 2 the first, and rank 1 its own in two pieces, end first."""
    data = torch.randn(9)
    spec = TensorSpec(fqn="w", key="fp32", shape=(3, 3), dtype="F32")
    held = [[(6, 9)], [(5, 6), (3, 5)], [(0, 3)]]
    store = kit.store_at(tmp_path)

    def save(ranks):
        return save_checkpoint(
            store,
            Snapshot(
                step=1,
                specs=[spec],
                fragments=[
                    Fragment(spec=spec, start=start, end=end, data=data[start:end])
                    for start, end in held[ranks.rank]
                ],
                state={},
                created_by={},
            ),
            ranks,
        )

    saved = kit.run_ranks(3, save)
    assert saved[0] == saved[1] == saved[2]
    kit.assert_holds(store, 1, [(spec, data)])
