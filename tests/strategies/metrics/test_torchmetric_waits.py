"""A metric of torchmetrics is asked about a batch without bringing its states to the host."""

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from strategies import metrics
from strategies.metrics.sums import MetricSums

torchmetrics = pytest.importorskip("torchmetrics")


class Brought(TorchFunctionMode):
    """Counts what is brought to the host, where a GPU would be waited for."""

    count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += func in (torch.Tensor.cpu, torch.Tensor.tolist)
        return func(*args, **(kwargs or {}))


def test_states_stay_where_they_are() -> None:
    metric = torchmetrics.MeanSquaredError()
    sums = MetricSums()
    with Brought() as seen:
        for batch in (torch.arange(4.0), torch.arange(3.0)):
            sums.add({"mse": metrics.torchmetric(metric, batch, batch + 2)}, weight=1)
    assert seen.count == 0
    assert sums.finish(sums.vector()) == {"mse": 4.0}
