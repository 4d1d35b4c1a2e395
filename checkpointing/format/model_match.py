"""Whether a checkpoint holds the tensors that a model needs. Pure."""

from collections.abc import Sequence

from ..errors import ModelMismatchError
from .tensor_spec import TensorSpec

_MAX_LINES = 10


def require_match(
    expected: Sequence[TensorSpec], found: Sequence[TensorSpec], *, where: str
) -> None:
    """Refuse a checkpoint whose tensors are not exactly the expected ones.

    Args:
        expected: What the model and its optimizer need, in any order.
        found: What the checkpoint has, in any order.
        where: The checkpoint's name in the message, such as "step-400".

    Raises:
        ModelMismatchError: Naming what is missing, what is too much, and what differs in shape
            or dtype.
    """
    lines = describe_differences(expected, found, where=where)
    if not lines:
        return
    shown = lines[:_MAX_LINES]
    if len(lines) > _MAX_LINES:
        shown.append(f"and {len(lines) - _MAX_LINES} more")
    raise ModelMismatchError("\n".join(shown) + "\nIs this the same model config?")


def describe_differences(
    expected: Sequence[TensorSpec], found: Sequence[TensorSpec], *, where: str
) -> list[str]:
    """Return one line per tensor name and kind of difference; empty if there is none."""
    wanted = {(spec.fqn, spec.key): spec for spec in expected}
    stored = {(spec.fqn, spec.key): spec for spec in found}
    # The keys of one parameter (its master, its moments) nearly always differ alike: one line.
    keys_of: dict[tuple[str, str], list[str]] = {}
    for name in [*wanted, *(name for name in stored if name not in wanted)]:
        difference = _difference(wanted.get(name), stored.get(name), where)
        if difference:
            keys_of.setdefault((name[0], difference), []).append(name[1])
    return [f"{fqn} ({', '.join(keys)}) {text}" for (fqn, text), keys in keys_of.items()]


def _difference(wanted: TensorSpec | None, stored: TensorSpec | None, where: str) -> str:
    if stored is None:
        return f"is in the model, but not in {where}."
    if wanted is None:
        return f"is in {where}, but not in the model."
    if wanted.shape != stored.shape:
        return f"is {wanted.shape} in the model and {stored.shape} in {where}."
    if wanted.dtype != stored.dtype:
        return f"is {wanted.dtype} in the model and {stored.dtype} in {where}."
    return ""
