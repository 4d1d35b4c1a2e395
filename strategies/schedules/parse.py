"""Reading a schedule as a user writes it in Python, without running any of it.

Known are calls of the functions of `schedules`, `.then(...)`, `.lasting(...)` and plain values.
"""

from __future__ import annotations

import ast
from typing import Any

from .. import schedules
from ..errors import ConfigError
from .schedule import Schedule

_FUNCTIONS = {
    name: getattr(schedules, name)
    for name in (
        *("constant", "cosine", "cosine_restarts", "exponential", "inverse_sqrt", "linear"),
        *("multi_step", "polynomial", "step", "warmup", "warmup_stable_decay"),
    )
}
_METHODS = ("then", "lasting")


def parse_schedule(text: str) -> Schedule:
    """Return the schedule that `text` describes, such as 'warmup(50).then(cosine(floor=0.1))'.

    Raises:
        ConfigError: the text is something else, or the schedule is refused.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ConfigError(f"{text!r} is not Python: {error.msg}.") from error
    return build_schedule(tree.body)


def schedule_of_script(source: str, *, name: str) -> Schedule:
    """Return the schedule that a script gives to `run.prepare(schedule=...)`.

    Args:
        source: the script's text; it is read, not run.
        name: what to call it in a message.

    Raises:
        ConfigError: there is none, there are several, or it holds more than plain values.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ConfigError(f"{name} is not Python: line {error.lineno}, {error.msg}.") from error
    given = [
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "schedule"
    ]
    if len(given) != 1:
        raise ConfigError(
            f"{name} has {len(given)} calls with schedule=...; one is needed. Write the schedule "
            "itself in place of the script."
        )
    try:
        return build_schedule(given[0])
    except ConfigError as error:
        raise ConfigError(f"{name}, line {given[0].lineno}: {error}") from error


def build_schedule(node: ast.expr) -> Schedule:
    """Return the schedule of a syntax tree.

    Raises:
        ConfigError: it is no schedule, or one that holds more than plain values.
    """
    value = _value(node)
    if not isinstance(value, Schedule):
        raise ConfigError(f"{ast.unparse(node)} is no schedule. {_hint()}")
    return value


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        return _call(node)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ConfigError(
            f"{ast.unparse(node)} is no plain value, and nothing is run here. Write it out. "
            + _hint()
        ) from None


def _call(node: ast.Call) -> Any:
    if any(keyword.arg is None for keyword in node.keywords):
        raise ConfigError(f"{ast.unparse(node)}: ** is not known here. {_hint()}")
    function = _function(node.func)
    arguments = [_value(argument) for argument in node.args]
    named = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    try:
        return function(*arguments, **named)
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{ast.unparse(node)}: {error}.") from error


def _function(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _FUNCTIONS:
        return _FUNCTIONS[node.id]
    if isinstance(node, ast.Attribute):
        if node.attr in _METHODS and isinstance(node.value, ast.Call):
            return getattr(build_schedule(node.value), node.attr)
        is_module = ast.unparse(node.value) in ("schedules", "strategies.schedules")
        if is_module and node.attr in _FUNCTIONS:
            return _FUNCTIONS[node.attr]
    raise ConfigError(f"{ast.unparse(node)} is not known here. {_hint()}")


def _hint() -> str:
    return f"Known are {', '.join(_FUNCTIONS)}, .then(...) and .lasting(...)."
