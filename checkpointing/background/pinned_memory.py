"""Host memory that a GPU copies to without a detour: page-locked for CUDA, as torch does it."""

import mmap
from collections.abc import Callable

_PORTABLE = 1
"""cudaHostRegisterPortable: for all of this process's CUDA contexts."""


NOT_LOCKED = "CUDA did not lock"
"""How the reason of a PinRefusedError begins."""


class PinRefusedError(RuntimeError):
    """CUDA did not lock memory; the text says what that costs."""


def pin(memory: mmap.mmap) -> Callable[[], None]:
    """Lock the pages of a mapping for CUDA where this process uses it; return what undoes that.

    Raises:
        PinRefusedError: CUDA refuses. The memory stays as it is, and copies to it are slower.
    """
    import torch

    # A run on the CPU of a GPU machine must not take memory there.
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return lambda: None
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
    refused = int(runtime.cudaHostRegister(address, len(memory), _PORTABLE))
    if refused != 0:
        _forget_last_error()
        raise PinRefusedError(
            f"{NOT_LOCKED} {len(memory) / 2**30:.2f} GiB of host memory (cudaHostRegister: "
            f"error {refused}), so that copies from the GPU to it take three times as long and "
            "hold up the training. Allow more locked memory (ulimit -l), or leave more of it free"
        )

    def unpin() -> None:
        runtime.cudaHostUnregister(address)

    return unpin


def on_current_gpu(action: Callable[[], None]) -> Callable[[], None]:
    """Return an action for a thread, which begins on GPU 0, that runs on this thread's GPU.

    Otherwise each rank would make a second CUDA context, on GPU 0.
    """
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return action
    device = torch.cuda.current_device()

    def run() -> None:
        torch.cuda.set_device(device)
        action()

    return run


def _forget_last_error() -> None:
    """Take note of the refusal, or the next kernel that is started would be blamed for it."""
    import torch

    try:
        torch.zeros(1, device="cuda")
    except RuntimeError:
        return
