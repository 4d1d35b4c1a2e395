import math
from typing import Any

import pytest
import torch
from sklearn import metrics as oracle
from torchmetrics import MeanSquaredError, MetricCollection, PearsonCorrCoef
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy

from strategies import metrics
from strategies.metrics.sums import MetricSums


def found(measured: dict[str, Any]) -> dict[str, float]:
    sums = MetricSums()
    sums.add(measured, weight=1.0)
    return sums.finish(sums.vector())


def test_means_are_exact_for_any_cut() -> None:
    values = torch.rand(13, dtype=torch.float64)
    for cut in (1, 4, 13):
        sums = MetricSums()
        for part in values.split(cut):
            sums.add({"loss": part, "accuracy": part > 0.5}, weight=1.0)
        result = sums.finish(sums.vector())
        assert result["loss"] == pytest.approx(float(values.mean()), rel=1e-14)
        assert result["accuracy"] == float((values > 0.5).sum()) / 13


def test_padding_fixes_the_names_and_counts_for_nothing() -> None:
    sums = MetricSums()
    nan = torch.full((4,), math.nan)
    sums.add({"loss": nan, "r2": metrics.r2(nan, nan)}, weight=0.0)
    assert sums.layout == [["loss", "mean", 2], ["r2", "r2(center=0.0)", 4]]
    assert sums.vector() == [0.0] * 6
    assert all(math.isnan(value) for value in sums.finish(sums.vector()).values())


def test_a_pair_is_a_sum_and_a_count() -> None:
    sums = MetricSums()
    sums.add({"mine": (torch.tensor(6.0), 3)}, weight=1.0)
    sums.add({"mine": (2.0, torch.tensor(1))}, weight=1.0)
    assert sums.finish(sums.vector()) == {"mine": 2.0}


def test_a_tally_of_ones_own() -> None:
    tally = metrics.Tally(
        kind="spread", sums=torch.tensor([3.0, 4.0]), finish=lambda totals: math.hypot(*totals)
    )
    assert found({"mine": tally}) == {"mine": 5.0}


@pytest.mark.parametrize(
    ("labels", "predictions", "classes"),
    [
        ([0, 1, 2, 2, 1], [0, 2, 2, 1, 1], 3),
        # A class that is never a label, one that is never predicted, one that is neither.
        ([0, 0, 1, 1], [0, 2, 2, 0], 4),
        ([1, 1, 1], [1, 1, 1], 2),
        ([0, 0], [1, 1], 2),
    ],
)
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_classes_as_scikit_learn(
    name: str, labels: list[int], predictions: list[int], classes: int
) -> None:
    p, y = torch.tensor(predictions), torch.tensor(labels)
    ours, theirs = getattr(metrics, name), getattr(oracle, f"{name}_score")
    for average in ("macro", "micro", "weighted", *(["binary"] if classes == 2 else [])):
        value = found({"m": ours(p, y, num_classes=classes, average=average)})["m"]
        assert value == pytest.approx(theirs(labels, predictions, average=average, zero_division=0))


def test_weights_as_scikit_learn() -> None:
    y, p = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 1])
    w = torch.tensor([1.0, 0.5, 0.0, 3.0])
    result = found(
        {
            "accuracy": metrics.accuracy(p, y, w),
            "f1": metrics.f1(p, y, num_classes=3, weights=w),
            "r2": metrics.r2(p.double(), y.double(), w),
        }
    )
    assert result == pytest.approx(
        {
            "accuracy": oracle.accuracy_score(y, p, sample_weight=w),
            "f1": oracle.f1_score(y, p, sample_weight=w, average="macro"),
            "r2": oracle.r2_score(y, p, sample_weight=w),
        }
    )


def test_what_has_no_value_is_nan() -> None:
    same = torch.full((5,), 0.1, dtype=torch.float64)
    assert math.isnan(found({"r2": metrics.r2(same + 1, same)})["r2"])
    none = torch.zeros(0, dtype=torch.long)
    assert math.isnan(found({"f1": metrics.f1(none, none, num_classes=2)})["f1"])
    assert found({"p": metrics.perplexity(torch.tensor([1e4]))})["p"] == math.inf


def test_a_center_saves_digits() -> None:
    y = 1e8 + torch.arange(10, dtype=torch.float64)
    p = y + 0.5
    exact = oracle.r2_score(y, p)
    assert found({"r2": metrics.r2(p, y, center=1e8)})["r2"] == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.tensor(1.0), 'reduction="none"'),
        (lambda: 0.5, 'reduction="none"'),
        (lambda: metrics.mse(torch.zeros(3), torch.zeros(3, 1)), "must be the same"),
        (lambda: metrics.mean(torch.zeros(3), torch.ones(2)), "weights of shape"),
        (lambda: metrics.accuracy(torch.zeros(3), torch.zeros(3).long()), "needs classes"),
        (lambda: metrics.accuracy(torch.zeros(3).long(), torch.zeros(3)), "must be integers"),
        (lambda: metrics.f1(torch.tensor([1]), torch.tensor([-100]), num_classes=2), "from -100"),
        (lambda: metrics.f1(torch.tensor([5]), torch.tensor([0]), num_classes=2), "to 5"),
        (lambda: metrics.top_k(torch.zeros(3, 2), torch.zeros(3).long(), 3), "k=3"),
        (lambda: metrics.r2(torch.zeros(3, 2), torch.zeros(3, 2)), "one a sample"),
        (
            lambda: metrics.recall(
                torch.zeros(1).long(), torch.zeros(1).long(), num_classes=3, average="binary"
            ),
            "num_classes=2",
        ),
        (
            lambda: metrics.torchmetric(BinaryAUROC(), torch.rand(3), torch.ones(3).long()),
            'state "preds" of BinaryAUROC is reduced by "cat"',
        ),
        (
            lambda: metrics.torchmetric(PearsonCorrCoef(), torch.rand(3), torch.rand(3)),
            "of PearsonCorrCoef is reduced by",
        ),
        (
            lambda: metrics.torchmetric(
                MetricCollection([MeanSquaredError()]), torch.rand(3), torch.rand(3)
            ),
            "one call for each of a collection",
        ),
        (lambda: metrics.torchmetric(sum, torch.rand(3)), "needs a metric of torchmetrics"),
        (lambda: "cat", '"m" is a str'),
        (lambda: [0.5, 0.25], '"m" is a list'),
        (lambda: None, '"m" is a NoneType'),
        (lambda: (1.0, 2.0, 3.0), "a tuple of 3; a pair is"),
    ],
)
def test_what_cannot_be_exact_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        found({"m": make()})


def test_another_metric_under_the_same_name_is_refused() -> None:
    sums = MetricSums()
    sums.add({"m": torch.ones(2)}, weight=1.0)
    with pytest.raises(ValueError, match="was mean of 2 in an earlier batch"):
        sums.add({"m": metrics.rmse(torch.ones(2), torch.ones(2))}, weight=1.0)


def test_a_metric_of_torchmetrics_keeps_its_own_state() -> None:
    metric = MulticlassAccuracy(3, average="micro")
    y, p = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 1])
    sums = MetricSums()
    for part in ([0], [1, 2, 3]):
        sums.add({"m": metrics.torchmetric(metric, p[part], y[part])}, weight=1.0)
    assert sums.finish(sums.vector()) == {"m": 0.5}
    assert metric._update_count == 0
