import pytest
import torch

from checkpointing.format import tensor_bytes
from checkpointing.format.tensor_bytes import byte_view, fill_pieces, host_pieces


@pytest.fixture(params=[1, 3, 40, 1000], ids=lambda size: f"pieces of {size} bytes")
def elsewhere(request, monkeypatch):
    """Treats every tensor as if it were on another device."""
    monkeypatch.setattr(tensor_bytes, "_is_in_host_memory", lambda tensor: False)
    monkeypatch.setattr(tensor_bytes, "PIECE_BYTES", request.param)


def test_host_memory_is_shared():
    tensor = torch.zeros(3, requires_grad=True)
    byte_view(tensor)[3] = 0x40
    assert tensor[0] == 2.0
    (piece,) = host_pieces(tensor)
    assert bytes(piece) == bytes(byte_view(tensor))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("numel", [0, 1, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.bool])
def test_pieces_from_another_device(kit, dtype, numel):
    tensor = (torch.arange(numel) % 2).to(dtype)
    assert b"".join(bytes(piece) for piece in host_pieces(tensor)) == kit.bits(tensor)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("numel", [0, 1, 7, 100])
def test_pieces_to_another_device(kit, numel):
    wanted = kit.bits(torch.arange(numel, dtype=torch.int16))
    out = torch.zeros(numel, dtype=torch.int16)
    for first, piece in fill_pieces(out):
        piece[:] = wanted[2 * first : 2 * first + len(piece)]
    assert kit.bits(out) == wanted


@pytest.mark.usefixtures("elsewhere")
def test_a_whole_checkpoint_by_way_of_staging(kit, tmp_path):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state())
    kit.assert_holds(store, 1, kit.sample_state())


def test_a_big_endian_machine_is_refused(monkeypatch):
    monkeypatch.setattr("sys.byteorder", "big")
    with pytest.raises(RuntimeError, match="little-endian"):
        byte_view(torch.zeros(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_a_checkpoint_from_and_to_a_gpu(kit, tmp_path):
    state = [(spec, tensor.cuda()) for spec, tensor in kit.sample_state()]
    big = torch.randn(9_000_001, device="cuda")
    spec = kit.TensorSpec(fqn="big", key="fp32", shape=tuple(big.shape), dtype="F32")
    store = kit.CheckpointStore(tmp_path)
    kit.save_state(store, 1, [*state, (spec, big)])
    with store.open(1) as reader:
        for found, tensor in [*state, (spec, big)]:
            out = torch.empty(found.numel, dtype=tensor.dtype, device="cuda")
            reader.read_into(found.fqn, found.key, 0, found.numel, out)
            assert kit.bits(out.cpu()) == kit.bits(tensor.cpu())
