"""Which words mean that another rank is gone."""

import pytest

from launcher.contract.peer_loss import is_of_connection, is_peer_loss
from strategies.errors import LostRankError

GLOO = "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:"


@pytest.mark.parametrize(
    ("text", "is_loss"),
    [
        (f"{GLOO}534] Connection closed by peer [127.0.0.1]:4711", True),
        (f"{GLOO}446] Read error [127.0.0.1]:4711: Connection reset by peer", True),
        (f"{GLOO}300] writev [127.0.0.1]:4711: Broken pipe", True),
        ("RuntimeError: Gloo connectFullMesh failed with [pair.cc:144] no error", True),
        ("RuntimeError: [1] is setting up NCCL communicator\nConnection reset by peer", True),
        ("torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:133", True),
        ("torch.distributed.DistNetworkError: Failed to recv, got 0 bytes.", True),
        ("DistStoreError: Socket Timeout", True),
        ("terminate called after throwing an instance of 'c10::DistBackendError'", True),
        ("rank 1 has closed its connection to rank 0 (Connection reset by peer).", True),
        ("strategies.errors.LostRankError: rank 1 has closed its connection to rank 0.", True),
        (
            "rank 0 has waited 600 s for rank 1 to reach the point where all ranks exchange data.",
            False,
        ),
        ("ValueError: Connection closed by peer", False),
        ("BrokenPipeError: [Errno 32] Broken pipe", False),
        ("ConnectionResetError: [Errno 104] Connection reset by peer", False),
        ("RuntimeError: CUDA out of memory", False),
        ("terminate called after throwing an instance of 'std::bad_alloc'", False),
        ("", False),
        (None, False),
    ],
)
def test_words(text, is_loss):
    assert is_peer_loss(text) is is_loss


@pytest.mark.parametrize(
    ("text", "is_of"),
    [
        (f"{GLOO}81] Timed out waiting 1800000ms for recv operation to complete", True),
        (f"{GLOO}534] Connection closed by peer [127.0.0.1]:4711", True),
        ("RuntimeError: ProcessGroupGloo::allgather: invalid tensor size at index 1", True),
        ("ValueError: of the user", False),
        ("OutOfMemoryError: CUDA out of memory", False),
        ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x8 and 7x1)", False),
    ],
)
def test_what_nothing_can_be_saved_after(text, is_of):
    assert is_of_connection(text) is is_of


def test_our_own_channel(tmp_path):
    """What a rank really says when the one at the other end of its socket has gone."""
    import socket

    from strategies.collectives.socket_channel import SocketChannel

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    neighbours = SocketChannel(0, {1: ours}, limit_s=5.0)
    theirs.close()
    with pytest.raises(LostRankError) as lost:
        neighbours.start([1.0]).wait()
    assert is_peer_loss(str(lost.value))
    assert is_peer_loss(f"strategies.errors.LostRankError: {lost.value}")
    neighbours.close()
