"""What `Run.prepare` is given, looked at before a recipe is made of it: names and kinds; pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from torch.utils.data import DataLoader

from strategies import EMA, ConfigError, EarlyStopping, Penalty, ReduceOnPlateau
from strategies.data.streams.own_position import keeps_position

from .names_elsewhere import ELSEWHERE

_WHOLE = (
    *("global_batch", "micro_batch", "epochs", "steps", "keep", "keep_best"),
    *("workers", "prefetch", "max_skipped", "log_every", "digest_every"),
)
_INTERVALS = ("evaluate_every", "save_every", "keep_every")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What an argument that is one of our objects must be."""

    cls: type
    example: str


KINDS: Mapping[str, Kind] = {
    "stop": Kind(cls=EarlyStopping, example='EarlyStopping("val/loss", patience=5)'),
    "plateau": Kind(cls=ReduceOnPlateau, example='ReduceOnPlateau("val/loss", factor=0.5)'),
    "ema": Kind(cls=EMA, example="EMA(decay=0.999)"),
    "penalty": Kind(cls=Penalty, example="Penalty(l2=1e-4)"),
}


def require_arguments(
    recipe: type, given: Mapping[str, Any], *, where: str, also: Collection[str] = ()
) -> None:
    """Refuse arguments of which no recipe can be made.

    Args:
        recipe: the dataclass whose fields are the arguments.
        given: what the script passes.
        where: the call, for messages, such as "run.prepare".
        also: other names that the call knows.

    Raises:
        ConfigError: one that does not exist, is missing, or is of another kind.
    """
    known = {field.name for field in fields(recipe)}
    unknown = [name for name in given if name not in known]
    refuse_unknown(unknown, known=(*known, *also), where=where)
    needed = [
        field.name
        for field in fields(recipe)
        if field.default is MISSING and field.default_factory is MISSING
    ]
    if missing := [name for name in needed if name not in given]:
        raise ConfigError(
            f"{where} needs {', '.join(f'{name}=' for name in missing)} too; see the script in the "
            "README."
        )
    for name, value in given.items():
        _require_kind(name, value)


def refuse_unknown(unknown: Collection[str], *, known: Collection[str], where: str) -> None:
    """Refuse arguments that a call does not know, and say which it knows instead.

    Raises:
        ConfigError: there is one.
    """
    for name in unknown:
        if (here := ELSEWHERE.get(name)) is not None and here.is_for(known):
            raise ConfigError(f'{where} has no argument "{name}": {here.sentence}')
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ConfigError(f'{where} has no argument "{name}"{hint}')


def _require_kind(name: str, value: Any) -> None:
    if value is None:
        return
    kind = KINDS.get(name)
    if kind is not None and not isinstance(value, kind.cls):
        raise ConfigError(
            f"{name}={value!r} is of type {_type(value)}; pass {name}={kind.example}."
        )
    if name in _WHOLE and (isinstance(value, bool) or not isinstance(value, int)):
        raise ConfigError(f"{name}={value!r} is of type {_type(value)}; it must be an int.")
    if name in _INTERVALS and not isinstance(value, str):
        raise ConfigError(
            f"{name}={value!r} is of type {_type(value)}; write it as text with its unit, such "
            f'as {name}="{value if isinstance(value, int) else 100} steps".'
        )
    if name == "train":
        require_no_loader(value, "train=")
    if name == "track" and isinstance(value, str):
        raise ConfigError(f'track="{value}" is one name; pass a list: track=["{value}"].')


def _type(value: object) -> str:
    return type(value).__name__


def require_no_loader(data: object, where: str) -> None:
    """Refuse a loader where a data set is needed.

    Raises:
        ConfigError: it is one.
    """
    if isinstance(data, DataLoader) and not (where == "train=" and keeps_position(data)):
        raise ConfigError(
            f"{where} is a DataLoader, and batches are made here, so that no sample is lost or "
            "seen twice on any number of ranks. Pass its data set: loader.dataset."
        )
