"""What is put in the place of `torch.cuda` where a GPU is pretended; see two_places.py."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

DEVICE = torch.device("cuda", 0)
SAID = "_pretended_place"
"""Attribute of a tensor without memory: where it is."""
LATE = "an event, with work after it"
"""How the host waits for an earlier point, while the device has more to do."""
current: list[Any] = []
"""The `TwoPlaces` that is in force."""


def now() -> Any:
    """Return the `TwoPlaces` in force."""
    return current[-1]


class Stream:
    """All is done in the order in which it is given."""

    device = DEVICE
    device_index, device_type, stream_id = 0, 1, 0

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def wait_stream(self, _: Any) -> None: ...
    def wait_event(self, _: Any) -> None: ...
    def is_capturing(self) -> bool:
        return False

    def synchronize(self) -> None:
        now().wait("stream.synchronize")
        now().settle()

    def record_event(self, event: Any = None) -> Any:
        event = event or Event()
        event.record(self)
        return event


class Event:
    """Ends what was given before it was recorded."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._upto = 0

    def record(self, _: Any = None) -> None:
        self._upto = now().given

    def wait(self, _: Any = None) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        world = now()
        if world.done < self._upto:
            left = world.given - self._upto
            world.wait("event.synchronize" if left == 0 else LATE)
            world.settle(self._upto)

    def elapsed_time(self, _: Any) -> float:
        return 0.0


@contextlib.contextmanager
def _on_stream(_: Any) -> Iterator[None]:
    yield


class _Cudart:
    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        now().registered[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del now().registered[address]
        return 0


CUDA: dict[str, Any] = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda _: None,
    "current_stream": lambda *_: Stream(),
    "default_stream": lambda *_: Stream(),
    "synchronize": lambda *_: Stream().synchronize(),
    "stream": _on_stream,
    "Stream": Stream,
    "Event": Event,
    "cudart": _Cudart,
    "mem_get_info": lambda *_: (64 * 2**30, 80 * 2**30),
    "memory_reserved": lambda *_: 0,
    "memory_allocated": lambda *_: 0,
    "max_memory_allocated": lambda *_: 0,
    "reset_peak_memory_stats": lambda *_: None,
    "empty_cache": lambda: None,
    "get_device_name": lambda *_: "pretended",
    "get_device_properties": lambda *_: SimpleNamespace(
        uuid="0", name="pretended", total_memory=80 * 2**30, major=9, minor=0
    ),
    "get_device_capability": lambda *_: (9, 0),
    "is_bf16_supported": lambda *_: True,
    "is_current_stream_capturing": lambda: False,
    "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": lambda *_: None,
    "manual_seed": lambda *_: None,
    "manual_seed_all": lambda *_: None,
    "_lazy_init": lambda: None,
}


ACCELERATOR: dict[str, Any] = {
    "is_available": lambda: True,
    "current_accelerator": lambda *_, **__: DEVICE,
    "current_stream": lambda *_: Stream(),
    "current_device_index": lambda: 0,
}


def is_cuda(device: object) -> bool:
    """Return whether a device is the pretended one."""
    return isinstance(device, torch.device | str) and str(device).startswith("cuda")


_make_wrapper: Any = torch.Tensor._make_wrapper_subclass


def wrapper(cls: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
    """Make a tensor without memory, and say where it is."""
    made = _make_wrapper(
        cls, *args, device=torch.device("cpu") if is_cuda(device) else device, **kwargs
    )
    if is_cuda(device):
        vars(made)[SAID] = "cuda"
    return made
