"""DeepSpeed's broadcasts of a model when it takes it over, which view parameters as bytes.

What has no dimension cannot be viewed so (deepspeed 0.19: engine.py, `_broadcast_model`;
partition_parameters.py, `_zero_init_param`). All that it does with parameters afterwards works for
them too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def of_any_dimension(deepspeed: Any) -> Iterator[None]:
    """Have DeepSpeed, within, take over parameters of no dimension too.

    Args:
        deepspeed: the module.
    """
    engine_class, init_class = deepspeed.DeepSpeedEngine, deepspeed.zero.Init
    broadcast, init_param = engine_class._broadcast_model, init_class._zero_init_param

    def broadcast_model(engine: Any) -> None:
        scalars = [p for p in engine.module.parameters() if p.ndim == 0]
        for parameter in scalars:
            parameter.data = parameter.data.view(1)
        broadcast(engine)
        for parameter in scalars:
            parameter.data = parameter.data.view(())

    def zero_init_param(init: Any, parameter: Any) -> None:
        has_no_dimension = parameter.ndim == 0
        if has_no_dimension:
            parameter.data = parameter.data.view(1)
        init_param(init, parameter)
        if has_no_dimension:
            parameter.ds_shape = torch.Size(())  # as which it is gathered

    engine_class._broadcast_model = broadcast_model
    init_class._zero_init_param = zero_init_param
    try:
        yield
    finally:
        engine_class._broadcast_model = broadcast
        init_class._zero_init_param = init_param
