"""Sum up the bytes of tensors where they are, and look at a sample of them."""

import ctypes
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import torch

from ..storage.checksum import crc32

_PIECE_BYTES = 8 * 1024 * 1024
_WORDS = _PIECE_BYTES // 4
_SAMPLES = 64


class Sum:
    """The sum of one tensor's bytes: on the host a CRC-32, on a device one of its own.

    Two sums can be compared where both were made on the same kind of device.

    Args:
        data: [n], contiguous, of any dtype.
        on_device: The sum under way, where it is not made on the host.
    """

    def __init__(self, data: torch.Tensor, on_device: torch.Tensor | None) -> None:
        self._data = data
        self._on_device = on_device
        # The waiting code may be on another stream.
        self._is_there: torch.cuda.Event | None = None
        if on_device is not None and on_device.is_cuda:
            self._is_there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._is_there.record(torch.cuda.current_stream(on_device.device))

    def finish(self) -> int:
        """Return it; waits for the device, or reads the bytes here and now, in any thread."""
        if self._on_device is not None:
            if self._is_there is not None:
                # A new thread stands on the first GPU, where a wait would take memory.
                torch.cuda.set_device(self._on_device.device)
                self._is_there.synchronize()
            return int(self._on_device.item())
        content, total = _raw(self._data).numpy().data, 0
        for start in range(0, len(content), _PIECE_BYTES):
            total = crc32(content[start : start + _PIECE_BYTES], total)
        return total


def begin_sum(data: torch.Tensor) -> Sum:
    """Begin to sum up a tensor: on a device now, in the order of what it is given to do.

    Args:
        data: [n], contiguous, of any dtype.
    """
    return Sum(data, None if data.device.type == "cpu" else _sum_on_device(_raw(data)))


def sample_bytes(tensors: Sequence[torch.Tensor]) -> list[bytes]:
    """Return some bytes of each tensor, from all over it; waits for each device once.

    Args:
        tensors: [n] each, contiguous, of any dtype and on any device.
    """
    found = [b""] * len(tensors)
    of_device: dict[torch.device, list[int]] = {}
    for index, data in enumerate(tensors):
        if data.is_cpu:
            found[index] = _sample_on_host(data)
        else:
            of_device.setdefault(data.device, []).append(index)
    for own in of_device.values():
        for index, sample in zip(own, _samples([tensors[i] for i in own]), strict=True):
            found[index] = sample
    return found


def _stride(num_bytes: int) -> int:
    # An odd one comes to every byte of an element, the lowest of the mantissa too.
    return max(1, num_bytes // _SAMPLES) | 1


def _sample_on_host(data: torch.Tensor) -> bytes:
    # Not by torch, whose views take longer than the bytes: a model has thousands of tensors, and
    # the training waits.
    num_bytes = data.numel() * data.element_size()
    content: Any = (ctypes.c_char * num_bytes).from_address(data.data_ptr())
    sample: bytes = content[:: _stride(num_bytes)]
    return sample


def _samples(tensors: Sequence[torch.Tensor]) -> list[bytes]:
    """Return the samples of tensors on one device."""
    parts = [raw[:: _stride(raw.numel())] for raw in map(_raw, tensors)]
    content = torch.cat(parts).cpu().numpy().tobytes()
    ends = list(accumulate(part.numel() for part in parts))
    return [content[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def _raw(data: torch.Tensor) -> torch.Tensor:
    return (data.detach() if data.requires_grad else data).view(torch.uint8)


def _sum_on_device(raw: torch.Tensor) -> torch.Tensor:
    """Return a sum that depends on each byte and its place, shape (), int64, modulo 2**64."""
    total = torch.zeros((), dtype=torch.int64, device=raw.device)
    is_aligned = raw.storage_offset() % 4 == 0 and raw.data_ptr() % 4 == 0
    whole = len(raw) // 4 * 4 if is_aligned else 0
    parts = (*([raw[:whole].view(torch.int32)] if whole else []), raw[whole:])
    pieces = [part[at : at + _WORDS] for part in parts for at in range(0, len(part), _WORDS)]
    for number, words in enumerate(pieces):
        weighted = words.to(torch.int64) * _weights(raw.device)[: len(words)]
        # An odd factor for each piece, so that pieces cannot change places.
        total += weighted.sum() * (2 * number + 1)
    return total


@cache
def _weights(device: torch.device) -> torch.Tensor:
    """Return odd numbers, always the same: one changed word always changes the sum."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(-(2**62), 2**62, (_WORDS,), generator=generator) * 2 + 1).to(device)
