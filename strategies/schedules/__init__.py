"""Learning rates as functions of the step; the names here are what scripts use."""

from .length import Span
from .pieces import (
    constant,
    cosine,
    cosine_restarts,
    exponential,
    function,
    inverse_sqrt,
    linear,
    multi_step,
    polynomial,
    step,
    warmup,
    warmup_stable_decay,
)
from .schedule import Factor, Rate, Schedule

__all__ = [
    "Factor",
    "Rate",
    "Schedule",
    "Span",
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "function",
    "inverse_sqrt",
    "linear",
    "multi_step",
    "polynomial",
    "step",
    "warmup",
    "warmup_stable_decay",
]
