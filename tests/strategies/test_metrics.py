import math

import pytest
import torch

from strategies.metrics import MetricSums, means


def test_means_are_exact_for_any_cut() -> None:
    values = torch.rand(13, dtype=torch.float64)
    for cut in (1, 4, 13):
        sums = MetricSums()
        for part in values.split(cut):
            sums.add({"loss": part, "accuracy": part > 0.5}, weight=1.0)
        found = means(sums.names, sums.vector())
        assert found["loss"] == pytest.approx(float(values.mean()), rel=1e-14)
        assert found["accuracy"] == float((values > 0.5).sum()) / 13


def test_padding_fixes_the_names_and_counts_for_nothing() -> None:
    sums = MetricSums()
    sums.add({"loss": torch.full((4,), math.nan)}, weight=0.0)
    assert sums.names == ("loss",)
    assert sums.vector() == [0.0, 0.0]
    assert math.isnan(means(sums.names, sums.vector())["loss"])


def test_a_pair_is_a_sum_and_a_count() -> None:
    sums = MetricSums()
    sums.add({"perplexity": (torch.tensor(6.0), 3)}, weight=1.0)
    sums.add({"perplexity": (2.0, torch.tensor(1))}, weight=1.0)
    assert means(sums.names, sums.vector()) == {"perplexity": 2.0}


def test_a_mean_of_unknown_weight_is_refused() -> None:
    with pytest.raises(ValueError, match='reduction="none"'):
        MetricSums().add({"loss": torch.tensor(1.0)}, weight=1.0)
