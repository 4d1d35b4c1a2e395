"""Tensors as bytes, without a copy where the tensor is in host memory."""

import sys
from collections.abc import Iterator

import torch

PIECE_BYTES = 16 * 1024 * 1024
"""The host memory used for copies from and to other devices."""


def byte_view(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor, sharing its memory.

    Args:
        tensor: [n], contiguous, on the CPU, any dtype.

    Raises:
        RuntimeError: On a big-endian machine; the format is little-endian.
    """
    if sys.byteorder != "little":
        raise RuntimeError("checkpoints are little-endian, and this machine is big-endian.")
    return tensor.detach().view(torch.uint8).numpy().data


def host_pieces(tensor: torch.Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor in order; from another device, by way of one small buffer.

    Each piece is valid until the next one is asked for.

    Args:
        tensor: [n], contiguous, any device, any dtype.
    """
    tensor = tensor.detach()
    if _is_in_host_memory(tensor):
        yield byte_view(tensor)
        return
    length = max(1, PIECE_BYTES // tensor.element_size())
    staging = torch.empty(min(length, tensor.numel()), dtype=tensor.dtype)
    for start in range(0, tensor.numel(), length):
        piece = tensor[start : start + length]
        yield byte_view(staging[: len(piece)].copy_(piece))


def fill_pieces(out: torch.Tensor) -> Iterator[tuple[int, memoryview]]:
    """Yield buffers to be filled, with the element at which each starts.

    On the CPU the one buffer is the tensor's own memory. For another device a small buffer is
    copied there when the next one is asked for, so the loop over it must run to its end.

    Args:
        out: [n], contiguous, any device, any dtype.
    """
    out = out.detach()
    if _is_in_host_memory(out):
        yield 0, byte_view(out)
        return
    length = max(1, PIECE_BYTES // out.element_size())
    staging = torch.empty(min(length, out.numel()), dtype=out.dtype)
    for start in range(0, out.numel(), length):
        piece = out[start : start + length]
        yield start, byte_view(staging[: len(piece)])
        piece.copy_(staging[: len(piece)])


def _is_in_host_memory(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"
