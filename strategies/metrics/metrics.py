"""Metrics as sums over samples, to return from `measure`; docs/metrics.md lists them.

    def measure(model, batch):
        x, labels = batch
        logits = model(x)
        return {
            "loss": F.cross_entropy(logits, labels, reduction="none"),  # one value per sample
            "accuracy": metrics.accuracy(logits, labels),
            "f1": metrics.f1(logits, labels, num_classes=10),
            "mine": (my_sum, my_count),
        }

`weights` has one number per sample: 0 for padding and masked elements. Predictions are classes
(n, ...), or scores (n, ..., classes), of which the highest is taken. Definitions and edge cases are
those of scikit-learn with zero_division=0; tests compare them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch

from ..collectives.order_free import sums_by_index
from ..errors import ConfigError
from .sums import Finish, Table, Tally, quotient

__all__ = [
    *("Tally", "accuracy", "bits_per_byte", "confusion_matrix", "f1", "mae", "mean", "mse"),
    *("perplexity", "precision", "r2", "recall", "rmse", "top_k", "torchmetric"),
]

Average: TypeAlias = Literal["macro", "micro", "weighted", "binary", "none"]
_AVERAGES = ("binary", "macro", "micro", "none", "weighted")
Weights: TypeAlias = "torch.Tensor | None"


def mean(values: torch.Tensor, weights: Weights = None) -> Tally:
    """The weighted mean of `values`, of any shape and real dtype."""
    return Tally(kind="mean", sums=_weighted(values, weights, "mean"), finish=quotient)


def accuracy(predictions: torch.Tensor, labels: torch.Tensor, weights: Weights = None) -> Tally:
    """The share of samples whose prediction is their label."""
    return mean(_classes(predictions, labels, "accuracy") == labels, weights)


def top_k(scores: torch.Tensor, labels: torch.Tensor, k: int, weights: Weights = None) -> Tally:
    """The share of samples whose label is among the `k` highest scores.

    Args:
        scores: (n, ..., classes).
        labels: (n, ...), integers.
        k: at least 1 and at most the number of classes.
        weights: (n, ...).
    """
    if scores.shape[:-1] != labels.shape or not 1 <= k <= scores.shape[-1]:
        raise ConfigError(
            f"metrics.top_k got scores of shape {tuple(scores.shape)}, labels of shape "
            f"{tuple(labels.shape)} and k={k}; it needs (n, classes), (n,) and 1 <= k <= classes."
        )
    hit = (scores.topk(k, dim=-1).indices == labels.unsqueeze(-1)).any(-1)
    return mean(hit, weights)


def confusion_matrix(
    predictions: torch.Tensor, labels: torch.Tensor, *, num_classes: int, weights: Weights = None
) -> Tally:
    """How often label i was predicted as j: a table with a row for each label, as one value.

    It is stored in metrics.jsonl and shown in the report; trackers get numbers only.
    """
    counts = _pairs(predictions, labels, num_classes, weights, "confusion_matrix")

    def finish(totals: Sequence[float]) -> Table:
        _refuse_unknown(totals, num_classes, "confusion_matrix")
        return [list(totals[n : n + num_classes]) for n in range(0, num_classes**2, num_classes)]

    return Tally(kind=f"confusion_matrix({num_classes})", sums=counts.flatten(), finish=finish)


def precision(
    predictions: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_classes: int,
    average: Average = "macro",
    weights: Weights = None,
) -> Tally:
    """Of the samples predicted as a class, the share that belongs to it; see `f1`."""
    return _by_class("precision", predictions, labels, num_classes, average, weights)


def recall(
    predictions: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_classes: int,
    average: Average = "macro",
    weights: Weights = None,
) -> Tally:
    """Of the samples of a class, the share that is predicted as it; see `f1`."""
    return _by_class("recall", predictions, labels, num_classes, average, weights)


def f1(
    predictions: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_classes: int,
    average: Average = "macro",
    weights: Weights = None,
) -> Tally:
    """The harmonic mean of precision and recall.

    Args:
        predictions: classes (n, ...), or scores (n, ..., classes).
        labels: (n, ...), integers in [0, num_classes).
        num_classes: the number of classes.
        average: "macro": the mean over the classes that occur among labels or predictions;
            "weighted": by how often each is a label; "micro": over all samples; "binary": class 1
            of two; "none": one number per class, named by its number.
        weights: (n, ...).
    """
    return _by_class("f1", predictions, labels, num_classes, average, weights)


def mse(predictions: torch.Tensor, targets: torch.Tensor, weights: Weights = None) -> Tally:
    """The mean squared error over all elements."""
    return mean(_difference(predictions, targets, "mse") ** 2, weights)


def rmse(predictions: torch.Tensor, targets: torch.Tensor, weights: Weights = None) -> Tally:
    """The root of the mean squared error over all elements."""
    squares = _weighted(_difference(predictions, targets, "rmse") ** 2, weights, "rmse")
    return Tally(kind="rmse", sums=squares, finish=lambda totals: math.sqrt(quotient(totals)))


def mae(predictions: torch.Tensor, targets: torch.Tensor, weights: Weights = None) -> Tally:
    """The mean absolute error over all elements."""
    return mean(_difference(predictions, targets, "mae").abs(), weights)


def r2(
    predictions: torch.Tensor,
    targets: torch.Tensor,
    weights: Weights = None,
    *,
    center: float = 0.0,
) -> Tally:
    """The coefficient of determination; nan where the targets do not differ.

    Args:
        predictions: (n,).
        targets: (n,).
        weights: (n,).
        center: a number near the targets' mean, the same everywhere. The spread is the difference
            of two sums, which loses digits where the mean is much larger than the spread.
    """
    if targets.numel() != len(targets):
        raise ConfigError(
            f"metrics.r2 got targets of shape {tuple(targets.shape)}; it needs one a sample. Give "
            "each output an R2 of its own."
        )
    residual = _difference(predictions, targets, "r2")
    y = targets.double() - center
    w = torch.ones_like(y) if weights is None else weights.double().to(y.device)
    _require_same_shape(w, y, "r2", "weights")
    sums = torch.stack([w.sum(), (w * y).sum(), (w * y**2).sum(), (w * residual**2).sum()])

    def finish(totals: Sequence[float]) -> float:
        count, total, squares, unexplained = totals
        if not count:
            return math.nan
        spread = squares - total**2 / count
        # Below the rounding of the two sums there is nothing to explain.
        return math.nan if spread <= 1e-13 * squares else 1.0 - unexplained / spread

    return Tally(kind=f"r2(center={center})", sums=sums, finish=finish)


def perplexity(losses: torch.Tensor, weights: Weights = None) -> Tally:
    """exp of the mean loss; `losses` has one natural-log loss a token, of any shape."""

    def finish(totals: Sequence[float]) -> float:
        exponent = quotient(totals)
        return math.exp(exponent) if not exponent > 709 else math.inf

    return Tally(kind="perplexity", sums=_weighted(losses, weights, "perplexity"), finish=finish)


def bits_per_byte(losses: torch.Tensor, num_bytes: float, weights: Weights = None) -> Tally:
    """The loss of a text in bits for each of its bytes, whatever the tokens.

    Args:
        losses: one natural-log loss a token, of any shape.
        num_bytes: the number of bytes that these tokens stand for.
        weights: shape as `losses`.
    """
    total = _weighted(losses, weights, "bits_per_byte")[0] / math.log(2)
    size: Any = num_bytes
    size = size.to(total) if isinstance(size, torch.Tensor) else total.new_full((), size)
    sums = torch.stack([total, size])
    return Tally(kind="bits_per_byte", sums=sums, finish=quotient)


def torchmetric(metric: Any, *arguments: Any, **named: Any) -> Tally:
    """Use a metric object of torchmetrics on this batch; its own state does not change.

    Args:
        metric: a metric whose states are all reduced by sums.
        arguments: the arguments of its `update`.
        named: its keyword arguments.

    Raises:
        ConfigError: a state is not a sum, such as a list of all predictions.
    """
    from .torchmetrics import tally

    return tally(metric, *arguments, **named)


def _by_class(
    name: Literal["precision", "recall", "f1"],
    predictions: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    average: Average,
    weights: Weights,
) -> Tally:
    if average not in _AVERAGES:
        raise ConfigError(
            f'metrics.{name}(average="{average}"): choose from {", ".join(_AVERAGES)}.'
        )
    if average == "binary" and num_classes != 2:
        raise ConfigError(f'metrics.{name}(average="binary") needs num_classes=2.')
    pairs = _pairs(predictions, labels, num_classes, weights, name)
    sums = torch.stack([pairs.diagonal(), pairs.sum(0), pairs.sum(1)])
    return Tally(
        kind=f"{name}({num_classes}, {average})",
        sums=sums.flatten(),
        finish=_average(name, num_classes, average),
    )


def _average(name: str, num_classes: int, average: Average) -> Finish:
    def score(hits: float, predicted: float, actual: float) -> float:
        whole = {"precision": predicted, "recall": actual, "f1": (predicted + actual) / 2}[name]
        return hits / whole if whole else 0.0

    def finish(totals: Sequence[float]) -> float | dict[str, float]:
        n = num_classes
        _refuse_unknown(totals, n, name)
        rows = list(zip(totals[:n], totals[n : 2 * n], totals[2 * n :], strict=True))
        if not any(actual for _, _, actual in rows):
            return math.nan
        if average == "micro":
            return score(*(sum(column) for column in zip(*rows, strict=True)))
        scores = [score(*row) for row in rows]
        if average == "none":
            return {str(number): value for number, value in enumerate(scores)}
        if average == "binary":
            return scores[1]
        shares = [
            actual if average == "weighted" else float(predicted + actual > 0)
            for _, predicted, actual in rows
        ]
        return sum(s * w for s, w in zip(scores, shares, strict=True)) / sum(shares)

    return finish


def _pairs(
    predictions: torch.Tensor, labels: torch.Tensor, num_classes: int, weights: Weights, name: str
) -> torch.Tensor:
    """Return how often each (label, prediction) occurs, (classes, classes), in float64."""
    classes = _classes(predictions, labels, name)
    out_of_range = None
    for what, values in (("labels", labels), ("predictions", classes)):
        if not values.is_cpu:
            # Looked at in the end, by `_refuse_unknown`: a look makes the host wait.
            wrong = ((values < 0) | (values >= num_classes)).any()
            out_of_range = wrong if out_of_range is None else out_of_range | wrong
        elif values.numel() and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ConfigError(
                f"metrics.{name}(num_classes={num_classes}) got {what} from {int(values.min())} to "
                f"{int(values.max())}; they must lie in 0 to {num_classes - 1}. Give masked "
                "elements any class and the weight 0."
            )
    where = (labels.long() * num_classes + classes.long()).flatten()
    w = torch.ones_like(labels, dtype=torch.float64) if weights is None else weights.double()
    _require_same_shape(w, labels, name, "weights")
    if out_of_range is not None:
        where = where.clamp(0, num_classes**2 - 1)
    counts = sums_by_index(where, w.flatten().to(where.device), num_classes**2)
    if out_of_range is not None:
        counts = torch.where(out_of_range, math.nan, counts)
    return counts.view(num_classes, num_classes)


def _refuse_unknown(totals: Sequence[float], num_classes: int, name: str) -> None:
    """Refuse sums of which `_pairs` has found on a device that they are of other classes.

    Raises:
        ConfigError: so it is; the totals are the same on every rank.
    """
    if any(math.isnan(total) for total in totals):
        raise ConfigError(
            f"metrics.{name}(num_classes={num_classes}) got labels or predictions that do not lie "
            f"in 0 to {num_classes - 1}, or weights that are nan. Give masked elements any "
            "class and the weight 0."
        )


def _classes(predictions: torch.Tensor, labels: torch.Tensor, name: str) -> torch.Tensor:
    if labels.is_floating_point():
        raise ConfigError(f"metrics.{name} got labels of {labels.dtype}; they must be integers.")
    if predictions.ndim == labels.ndim + 1:
        predictions = predictions.argmax(-1)
    elif predictions.is_floating_point():
        raise ConfigError(
            f"metrics.{name} got predictions of {predictions.dtype} and shape "
            f"{tuple(predictions.shape)}; it needs classes, or scores (n, classes)."
        )
    _require_same_shape(predictions, labels, name, "predictions")
    return predictions


def _difference(predictions: torch.Tensor, targets: torch.Tensor, name: str) -> torch.Tensor:
    # Shapes (n,) and (n, 1) would broadcast to (n, n), and nobody would notice.
    _require_same_shape(predictions, targets, name, "predictions")
    return predictions.detach().double() - targets.detach().double()


def _weighted(values: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    """Return (sum of w * value, sum of w) in float64."""
    values = values.detach().double()
    if weights is None:
        return torch.stack([values.sum(), values.new_full((), values.numel())])
    _require_same_shape(weights, values, name, "weights")
    w = weights.double().to(values.device)
    # Whatever stands where the weight is 0, also nan, does not count.
    return torch.stack([(torch.where(w == 0, 0.0, values) * w).sum(), w.sum()])


def _require_same_shape(a: torch.Tensor, b: torch.Tensor, name: str, what: str) -> None:
    if a.shape != b.shape:
        raise ConfigError(
            f"metrics.{name} got {what} of shape {tuple(a.shape)} for {tuple(b.shape)}; the shapes "
            "must be the same."
        )
