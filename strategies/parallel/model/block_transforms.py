"""What is done to the blocks of a model before it is sharded: recomputation, compilation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError
from ...modifiers.recomputation import recomputed
from ..build_options import BuildOptions
from .blocks import find_blocks


def work_on_blocks(model: nn.Module, options: BuildOptions) -> None:
    """Make blocks recompute their activations, and compile them, if requested.

    Names and parameters of the model stay what they are.

    Raises:
        ConfigError: no block is found, or nothing here can compile.
    """
    for block in _chosen(model, options.checkpoint_blocks, "checkpoint_blocks").values():
        # In the instance: a wrapper module would change the names of all parameters in it.
        block.forward = _recomputed(block)
    compiled = _chosen(model, options.compile_blocks, "compile_blocks")
    if compiled:
        _require_compiler()
    for block in compiled.values():
        block.compile()


def _chosen(model: nn.Module, asked: bool | tuple[str, ...], option: str) -> dict[str, nn.Module]:
    if asked is False:
        return {}
    found = find_blocks(model, () if asked is True else asked)
    if not found:
        raise ConfigError(
            f"{option}=True, and the model {type(model).__name__} has no repeated modules. "
            f'Name the blocks, such as {option}="encoder,decoder", or leave it out.'
        )
    return found


def _recomputed(block: nn.Module) -> Callable[..., Any]:
    forward = block.forward
    without_activations = recomputed(block, forward)

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return without_activations(*args, **kwargs)

    return run


def _require_compiler() -> None:
    if torch.cuda.is_available():
        # What triton looks for (runtime/build.py), at the first step otherwise.
        given = os.environ.get("CC")
        if given is not None and shutil.which(given) is None:
            raise ConfigError(
                f'compile_blocks needs a C compiler on a GPU too, and CC="{given}" in the '
                "environment is no program. Unset CC, or name one."
            )
        if not (given or shutil.which("gcc") or shutil.which("clang")):
            raise ConfigError(
                "compile_blocks needs a C compiler on a GPU too, for what starts the kernels, and "
                "there is neither CC nor gcc nor clang. Install gcc, or leave compile_blocks out."
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise ConfigError(
            f"compile_blocks needs a C++ compiler on a CPU, and there is none ({error}). "
            "Install g++, or leave compile_blocks out."
        ) from error
