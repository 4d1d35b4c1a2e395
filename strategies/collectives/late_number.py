"""Numbers that a device has still to compute, read later without holding it up."""

from __future__ import annotations

from typing import Any

import torch


class LateNumbers:
    """A copy of numbers as they are where the device now is; `read` waits for that point only.

    `tolist` of a tensor waits until the device has done all that it was given, and the device then
    waits for what the host gives it next.

    Args:
        values: of any shape, on any device.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._numbers: Any = None
        if not values.is_cuda:
            # There is nothing to wait for, and a copy would take longer.
            self._numbers = values.tolist()
            return
        values = values.detach()
        self._copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._copy.copy_(values, non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(values.device))

    def read(self) -> Any:
        """Return them as `tolist` does, once the device has come to where they were asked for."""
        if self._event is None:
            return self._numbers
        self._event.synchronize()
        return self._copy.tolist()


class LateNumber(LateNumbers):
    """The same of one number, for `float`.

    Args:
        value: 0-dim, on any device.
    """

    def __float__(self) -> float:
        """Return it, once the device has come to where it was asked for."""
        return float(self.read())
