"""What a rank on a CPU does with freed memory: it keeps it for the next step.

By default glibc gives freed memory back to the kernel where much of it lies at the end of the heap.
Whether that happens in each step depends on where the first large tensors came to lie: in some
starts of the same training every step gave memory back and took it anew, a thousand page faults
each, and was 5 % longer; most often in those that had read a checkpoint.
"""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
_KEPT_BYTES = 1 << 30
"""Free bytes at the end of the heap that are kept."""
_LARGEST_BYTES = 32 << 20
"""Of an allocation on the heap; glibc's own largest. Larger ones are mapped, and given back."""


def keep_freed_memory() -> bool:
    """Set it for this process; return whether its C library knows how (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(
            mallopt(_MMAP_THRESHOLD, _LARGEST_BYTES) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        )
    return False
