"""A script's own settings: a dataclass, a TOML or YAML file, and `--key=value`; pure but for files.

    @dataclass(frozen=True, kw_only=True)
    class Config:
        lr: float = 1e-3
        model: ModelConfig = field(default_factory=ModelConfig)

    config = run.config(Config)     # train.py --config train.toml --lr 3e-4 --model.width=512

The command line wins over the file, the file over the defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import math
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from strategies import ConfigError

FILE_OPTION = "config"
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

Settings = TypeVar("Settings")


def build_config(
    cls: type[Settings], words: Sequence[str], *, file: Path | None = None
) -> Settings:
    """Return the settings.

    Args:
        cls: a dataclass; its fields' types are what is accepted.
        words: the script's arguments.
        file: read unless `--config FILE` names another.

    Raises:
        ConfigError: an unknown key, with the nearest one; a value of another type; a missing one.
    """
    given = _given(words)
    chosen = given.pop(FILE_OPTION, None)
    path = Path(chosen) if chosen is not None else file
    values = _flat(_read(path)) if path is not None else {}
    where = dict.fromkeys(values, str(path))
    values |= given
    where |= {key: f"--{key}" for key in given}
    known = dict(_fields(cls))
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
            raise ConfigError(f'{where[key]}: unknown setting "{key}"; {hint}')
    made = {key: _convert(known[key], value, key, where[key]) for key, value in values.items()}
    return _make(cls, made, "")


def to_json(config: Any) -> dict[str, Any]:
    """Return the resolved settings as JSON knows them."""
    described: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=_plain))
    return described


def config_from_file(path: Path) -> type[Any]:
    """Return a dataclass whose fields and defaults are those of a file, for scripts without one.

    Raises:
        ConfigError: the file cannot be read.
    """
    return _class_of("Config", _read(path))


def _class_of(name: str, table: Mapping[str, Any]) -> type[Any]:
    fields: list[tuple[str, Any, Any]] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            nested = _class_of(key, value)
            fields.append((key, nested, dataclasses.field(default_factory=nested)))
        elif isinstance(value, list):
            kind = type(value[0]) if value else str
            made = tuple(value)
            fields.append((key, types.GenericAlias(tuple, (kind, ...)), made))
        else:
            fields.append((key, type(value), value))
    return dataclasses.make_dataclass(name, fields, frozen=True)


def _given(words: Sequence[str]) -> dict[str, str]:
    """Read `--key=value`, `--key value`; dashes and underscores mean the same."""
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise ConfigError(f'"{word}" is no setting; write --key=value.')
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{key} needs a value: --{key}=VALUE.")
            value = rest.pop(0)
        found[key.replace("-", "_")] = value
    return found


def _read(path: Path) -> Mapping[str, Any]:
    readers: Mapping[str, Callable[[str], Any]] = {
        ".toml": tomllib.loads,
        ".json": json.loads,
        ".yaml": _yaml,
        ".yml": _yaml,
    }
    if path.suffix not in readers:
        raise ConfigError(f"{path}: settings are read from {', '.join(readers)} files.")
    try:
        found = readers[path.suffix](path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path} cannot be understood: {error}") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path} holds {type(found).__name__}; it needs keys with values.")
    return found


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ConfigError(
            "settings in YAML need PyYAML: pip install 'relaunch[yaml]'. TOML needs nothing."
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{str(key).replace('-', '_')}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def _fields(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    for each in dataclasses.fields(cls):
        kind = hints[each.name]
        if dataclasses.is_dataclass(kind):
            yield from _fields(typing.cast(type[Any], kind), f"{prefix}{each.name}.")
        else:
            yield f"{prefix}{each.name}", kind


def _make(cls: type[Settings], values: Mapping[str, Any], prefix: str) -> Settings:
    hints = typing.get_type_hints(cls)
    made: dict[str, Any] = {}
    for each in dataclasses.fields(cls):  # type: ignore[arg-type]
        key = f"{prefix}{each.name}"
        kind = hints[each.name]
        if dataclasses.is_dataclass(kind):
            made[each.name] = _nested(typing.cast(type[Any], kind), each, values, key)
        elif key in values:
            made[each.name] = values[key]
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise ConfigError(f"the setting {key} has no default; pass --{key}=VALUE.")
    return cls(**{k: v for k, v in made.items() if v is not dataclasses.MISSING})


def _nested(
    kind: type[Any], each: dataclasses.Field[Any], values: Mapping[str, Any], key: str
) -> Any:
    """Return a settings object inside another; its own default is kept where it has one."""
    default = each.default
    if default is dataclasses.MISSING and each.default_factory is not dataclasses.MISSING:
        default = each.default_factory()
    inside = {k: v for k, v in values.items() if k.startswith(f"{key}.")}
    if default is dataclasses.MISSING:
        return _make(kind, inside, f"{key}.")
    changed: dict[str, Any] = {}
    for inner in dataclasses.fields(kind):
        name = f"{key}.{inner.name}"
        hint = typing.get_type_hints(kind)[inner.name]
        if dataclasses.is_dataclass(hint):
            field = dataclasses.field(default=getattr(default, inner.name))
            changed[inner.name] = _nested(typing.cast(type[Any], hint), field, inside, name)
        elif name in inside:
            changed[inner.name] = inside[name]
    return dataclasses.replace(default, **changed)


class _WrongTypeError(Exception):
    """A value does not suit a type."""


def _convert(kind: Any, value: Any, key: str, where: str) -> Any:
    try:
        return _to(kind, value)
    except _WrongTypeError:
        shown = f'"{value}"' if isinstance(value, str) else repr(value)
        raise ConfigError(f"{where}: {key}={shown} is not {_name(kind)}.") from None


def _to(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _to_any(arguments, value)
    if origin is Literal:
        for choice in arguments:
            if value == choice or (isinstance(value, str) and value == str(choice)):
                return choice
        raise _WrongTypeError
    if origin in (tuple, list):
        return _to_sequence(origin, arguments, value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        for member in kind:
            if value in (member.name, member.value):
                return member
        raise _WrongTypeError
    if kind not in _SCALARS:
        raise ConfigError(f"settings of the type {_name(kind)} cannot be read from text.")
    return _SCALARS[kind](value)


def _to_any(kinds: Sequence[Any], value: Any) -> Any:
    if type(None) in kinds and value in (None, "none", "None", "null"):
        return None
    for kind in kinds:
        if kind is not type(None):
            try:
                return _to(kind, value)
            except _WrongTypeError:
                continue
    raise _WrongTypeError


def _to_sequence(origin: type, arguments: Sequence[Any], value: Any) -> Any:
    parts = [p for p in value.split(",") if p] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise _WrongTypeError
    if origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
        return origin(_to(arguments[0], part) for part in parts)
    if len(parts) != len(arguments):
        raise _WrongTypeError
    return tuple(_to(kind, part) for kind, part in zip(arguments, parts, strict=True))


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    raise _WrongTypeError


def _to_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _WrongTypeError
    try:
        return int(value)
    except ValueError:
        raise _WrongTypeError from None


def _to_float(value: Any) -> float:
    # YAML 1.1 reads 1e-3 as a text, because it has no point.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _WrongTypeError
    try:
        number = float(value)
    except ValueError:
        raise _WrongTypeError from None
    if math.isnan(number):
        raise _WrongTypeError
    return number


def _to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongTypeError
    return value


_SCALARS: Mapping[Any, Callable[[Any], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_text,
    Path: lambda value: Path(_to_text(value)),
}


def _name(kind: Any) -> str:
    """Return a type as a person says it."""
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if kind in names:
        return names[kind]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return f"one of {', '.join(member.name for member in kind)}"
    return str(kind).replace("typing.", "")


def _plain(value: Any) -> Any:
    return value.name if isinstance(value, enum.Enum) else str(value)
