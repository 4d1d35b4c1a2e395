"""Checkpoints by way of s3fs at a server that speaks S3's protocol.

scripts/install test-s3; scripts/test -m slow -k emulated_s3
"""

import socket
from functools import partial

import pytest
import torch

from checkpointing import (
    CheckpointStore,
    DamagedCheckpointError,
    Fragment,
    SaveFailedError,
    Snapshot,
    TensorSpec,
    place_at,
    start_save,
)
from checkpointing.storage import object_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
NUMEL = 12_000_001
SPEC = TensorSpec(fqn="net.weight", key="fp32", shape=(NUMEL,), dtype="F32")


@pytest.fixture(scope="module")
def endpoint():
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    moto.start()
    yield f"http://127.0.0.1:{port}"
    moto.stop()


@pytest.fixture
def place(endpoint, monkeypatch, request):
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    bucket = request.node.name.partition("[")[0].replace("_", "-")[:60]
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/run"


def save_sample(kit, store, seed, ranks):
    return kit.save_state(store, 1, kit.sample_state(seed), ranks)


def test_checkpoints_are_saved_replaced_loaded_and_deleted(kit, place):
    store = kit.store_at_url(place)
    store.check_writable()
    store.sweep()
    for seed in (1, 2):
        kit.run_ranks(3, partial(save_sample, kit, store, seed))
    kit.save_state(store, 2, kit.sample_state(3))
    kit.assert_holds(kit.store_at_url(place), 1, kit.sample_state(2))
    assert store.steps() == [2, 1]
    assert len(store.sweep()) == 1  # what the first save of step 1 has put
    store.pin(1)
    with pytest.raises(SaveFailedError, match="is pinned"):
        store.delete(1)
    store.unpin(1)
    store.delete(1)
    assert store.steps() == [2]
    assert store.verify(2) == []


def test_a_large_shard_is_put_in_parts_and_read_in_ranges(kit, place, writers):
    found = place_at(place)
    store, data = CheckpointStore(found.folder, found.files), torch.randn(NUMEL)
    store.sweep()
    assert data.nbytes > object_files.WHOLE_BYTES
    fragment = Fragment(spec=SPEC, start=0, end=NUMEL, data=data)
    snapshot = Snapshot(step=7, specs=[SPEC], fragments=[fragment], state={}, created_by={})
    save = start_save(store, snapshot, kit.LocalCommunicator(), writers())
    save.commit()  # which the writer does
    save.finish()
    with store.open(7) as reader:
        assert reader.read("net.weight", "fp32", 0, NUMEL).equal(data)
        assert reader.read("net.weight", "fp32", 77, 9_000_000).equal(data[77:9_000_000])
    assert store.verify(7) == []


def test_a_lost_object_and_a_store_taken_over_are_told(kit, place):
    store = kit.store_at_url(place)
    store.sweep()
    kit.save_state(store, 1, kit.sample_state(1))
    (shard,) = (
        path for path in store.files._filesystem.find(place) if path.endswith(".safetensors")
    )
    kit.store_at_url(place).sweep()
    with pytest.raises(SaveFailedError, match="was taken over by another run"):
        kit.save_state(store, 2, kit.sample_state(2))
    assert store.steps() == [1]
    store.files._filesystem.rm_file(shard)
    with pytest.raises(DamagedCheckpointError, match="safetensors"):
        kit.assert_holds(store, 1, kit.sample_state(1))


def test_a_bucket_that_is_not_there_is_told(kit, place):
    with pytest.raises(SaveFailedError, match="cannot save checkpoints in s3://no-such-bucket/run"):
        kit.store_at_url("s3://no-such-bucket/run").check_writable()
