"""Tensors in shards that a script pickles, as `torch.save` does: a file would hold one rank's rows.

Such a file cannot even be read without a process group of as many ranks. Whatever a script makes of
the weights of a sharded model (`state_dict()`, `.cpu()`, a list of parameters) stays in shards, so
it is looked at where it is pickled. Nothing of ours is pickled, nor is what torch's distributed
checkpoint writes: it takes each rank's tensors.
"""

from __future__ import annotations

import copyreg
from functools import partial
from typing import NoReturn

from torch.distributed.tensor import DTensor

from ...errors import ConfigError


def refuse_pickled_shards(strategy: str) -> None:
    """Have this process refuse to pickle tensors in shards, from now on.

    Args:
        strategy: its name.
    """
    copyreg.pickle(DTensor, partial(_refuse, strategy))


def _refuse(strategy: str, tensor: DTensor) -> NoReturn:
    raise ConfigError(
        f"a tensor of shape {tuple(tensor.shape)} was to be pickled, as torch.save does, and under "
        f"strategy={strategy} it is in shards: a file would hold this rank's rows alone. "
        "job.export() on every rank writes the whole model as one safetensors file."
    )
