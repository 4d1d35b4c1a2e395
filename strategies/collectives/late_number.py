"""A number that a device has still to compute, read later without holding it up."""

from __future__ import annotations

from typing import Any

import torch


class LateNumber:
    """A copy of a number as it is where the device now is; `float` waits for that point only.

    `float` of a tensor waits until the device has done all that it was given, and the device then
    waits for what the host gives it next.

    Args:
        value: 0-dim, on any device.
    """

    def __init__(self, value: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._number = 0.0
        if not value.is_cuda:
            # There is nothing to wait for, and a copy would take longer.
            self._number = _on_host(value)
            return
        value = value.detach()
        self._copy = torch.empty((), dtype=value.dtype, pin_memory=True)
        self._copy.copy_(value, non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(value.device))

    def __float__(self) -> float:
        """Return it, once the device has come to where it was asked for."""
        if self._event is None:
            return self._number
        self._event.synchronize()
        return _on_host(self._copy)


def _on_host(value: torch.Tensor) -> float:
    """Return a number that is in the host's memory, of any dtype; numpy has no bfloat16."""
    number: Any = value.tolist()
    return float(number)
