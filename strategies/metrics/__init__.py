"""Metrics with exact sums; the names here are what scripts use."""

from .metrics import (
    accuracy,
    bits_per_byte,
    confusion_matrix,
    f1,
    mae,
    mean,
    mse,
    perplexity,
    precision,
    r2,
    recall,
    rmse,
    top_k,
    torchmetric,
)
from .sums import Tally

__all__ = [
    "Tally",
    "accuracy",
    "bits_per_byte",
    "confusion_matrix",
    "f1",
    "mae",
    "mean",
    "mse",
    "perplexity",
    "precision",
    "r2",
    "recall",
    "rmse",
    "top_k",
    "torchmetric",
]
