"""DeepSpeed on the GPU that is pretended; see two_places.py.

It has its own accelerator for CUDA, over the `torch.cuda` that is pretended, and communicates
through gloo. Where the host would wait for the device within DeepSpeed, its line is counted too.
"""

import os
import traceback
from pathlib import Path
from typing import Any

import torch
from two_places import TwoPlaces  # type: ignore[import-not-found]

_OURS = Path(__file__).resolve().parents[3]
os.environ["DS_ACCELERATOR"] = "cpu"  # it is imported as on the host


def places(strategy: str) -> Any:
    """Return the pretended GPU for a strategy."""
    return _DeepSpeedsPlaces() if strategy.startswith("zero") else TwoPlaces()


class _DeepSpeedsPlaces(TwoPlaces):  # type: ignore[misc]
    def __enter__(self) -> "_DeepSpeedsPlaces":
        from deepspeed.accelerator import get_accelerator, real_accelerator
        from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator

        class Accelerator(CUDA_Accelerator):  # type: ignore[misc]
            def range_push(self, *_: Any, **__: Any) -> None: ...
            def range_pop(self, *_: Any, **__: Any) -> None: ...

        # That of the host, for afterwards; it has kernels for fp16 too.
        vars(get_accelerator())["is_fp16_supported"] = lambda: True
        super().__enter__()
        self._replace(real_accelerator, "ds_accelerator", Accelerator())
        self._replace(torch.Tensor, "record_stream", lambda *_: None)
        return self

    def wait(self, how: str) -> None:
        """Count a wait, if it is one of ours or of DeepSpeed's."""
        super().wait(f"{how}{_in_deepspeed()}")


def _in_deepspeed() -> str:
    """Return the innermost line of DeepSpeed's, if none of ours is further in."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if "deepspeed" in path.parts:
            return f", deepspeed {path.name}:{frame.name}"
        if path.is_relative_to(_OURS / "strategies") or path.is_relative_to(_OURS / "launcher"):
            break
    return ""
