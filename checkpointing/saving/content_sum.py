"""Sum up the bytes of tensors where they are, and look at a sample of them."""

from collections.abc import Sequence
from functools import cache

import torch

from ..storage.checksum import crc32

_PIECE_BYTES = 8 * 1024 * 1024
_WORDS = _PIECE_BYTES // 4
_SAMPLES = 64


class Sum:
    """The sum of one tensor's bytes: on the host a CRC-32, on a device one of its own.

    Two sums can be compared where both were made on the same kind of device.
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
                self._is_there.synchronize()
            return int(self._on_device.item())
        content, total = self._data.numpy().data, 0
        for start in range(0, len(content), _PIECE_BYTES):
            total = crc32(content[start : start + _PIECE_BYTES], total)
        return total


def begin_sum(data: torch.Tensor) -> Sum:
    """Begin to sum up a tensor: on a device now, in the order of what it is given to do.

    Args:
        data: [n], contiguous, of any dtype.
    """
    raw = data.detach().view(torch.uint8)
    return Sum(raw, None if raw.device.type == "cpu" else _sum_on_device(raw))


def sample_bytes(tensors: Sequence[torch.Tensor]) -> list[bytes]:
    """Return some bytes of each tensor, from all over it; waits for each device once.

    Args:
        tensors: [n] each, contiguous, of any dtype and on any device.
    """
    raws = [data.detach().view(torch.uint8) for data in tensors]
    # An odd stride comes to every byte of an element, the lowest of the mantissa too.
    parts = [raw[:: max(1, len(raw) // _SAMPLES) | 1] for raw in raws]
    found = [b""] * len(parts)
    for device in {part.device for part in parts}:
        own = [index for index, part in enumerate(parts) if part.device == device]
        content = torch.cat([parts[index] for index in own]).cpu().numpy().tobytes()
        at = 0
        for index in own:
            found[index] = content[at : at + len(parts[index])]
            at += len(parts[index])
    return found


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
