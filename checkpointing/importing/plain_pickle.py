"""Read a pickle as data: nothing in it is called, imported or built.

`pickletools` splits the stream into opcodes; the machine here does with each what the protocol
says, except that a name is only looked up in a table, and an object stays a `Record` of its name,
its arguments and its state. A name that is not in the table is refused.

Memory and time are bounded by the length of the stream. Opcodes cost what they are long, with two
exceptions, both bounded here: calls that copy a container, again and again the same one (a budget
of elements), and keys, which are hashed: a tuple of itself twice, k levels deep, would be hashed
2**k times (keys are of plain types). https://docs.python.org/3/library/pickletools.html
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import DamagedCheckpointError


@dataclass(kw_only=True, eq=False)
class Record:
    """An object of a class that was allowed, as data."""

    name: str
    """Module and class, such as "pathlib.PosixPath"."""
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] | None = None
    """What a mapping of this class holds."""

    def __repr__(self) -> str:
        # What it holds may hold it, or be more than can be written down.
        return f"<{self.name}>"

    def field(self, name: str) -> Any:
        """Return a field of the state.

        Raises:
            KeyError: It has none of this name.
        """
        if not isinstance(self.state, dict) or name not in self.state:
            raise KeyError(f"a {self.name} without {name}")
        return self.state[name]

    def optional(self, name: str) -> Any:
        """Return a field of the state, None if it has none of this name."""
        return self.state.get(name) if isinstance(self.state, dict) else None


@dataclass(frozen=True, kw_only=True)
class Name:
    """A class, function or constant that was allowed, by name; it is never looked up."""

    name: str


Build: TypeAlias = Callable[..., Any]
Allowed: TypeAlias = Mapping[str, Build | None]
"""From a full name to what stands for a call of it; None: the call becomes a `Record`."""

_MARK = object()
_MAX_KEY_ITEMS = 8
_MAX_KEY_BITS = 64
"""The hash of a larger number is computed anew each time, from all of it."""
_FREE_ELEMENTS = 1_000_000
_ELEMENTS_PER_BYTE = 2
"""Of what torch writes, a call that copies a shape of four numbers is a dozen bytes long."""


def require_key(value: Any) -> Any:
    """Return a value that may be a key of a mapping or a member of a set.

    Raises:
        ValueError: It is of no plain type: hashing it could take for ever.
    """
    if _is_plain(value) or isinstance(value, Record):
        return value
    if isinstance(value, tuple) and len(value) <= _MAX_KEY_ITEMS and all(map(_is_plain, value)):
        return value
    raise ValueError(f"a {type(value).__name__} as a key, which is of no plain type")


def _is_plain(value: Any) -> bool:
    if isinstance(value, int):
        return value.bit_length() <= _MAX_KEY_BITS
    return value is None or isinstance(value, float | str | bytes | Name)


def parse_pickle(content: bytes, allowed: Allowed, *, path: Path) -> Any:
    """Return the data of a pickle.

    Args:
        content: The whole stream.
        allowed: Every name that may occur.
        path: The file, for messages.

    Raises:
        DamagedCheckpointError: If a name is not allowed, naming it, if the stream is not a pickle,
            or one that makes far more of itself than its length can need.
    """
    machine = _Machine(allowed, _FREE_ELEMENTS + _ELEMENTS_PER_BYTE * len(content))
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(content)):
            machine.do(opcode.name, argument)
        return machine.result()
    except _RefusedError as error:
        raise DamagedCheckpointError(path, str(error)) from None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        raise DamagedCheckpointError(path, f"is not a pickle that can be read: {error}") from error


class _RefusedError(Exception):
    """A name that is not in the table, or too much of it."""


class _Machine:
    """The stack, the memo, and one method for each opcode that is not plain data."""

    def __init__(self, allowed: Allowed, max_elements: int) -> None:
        self._allowed = allowed
        self._max_elements = max_elements
        self._elements = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._result: Any = _MARK

    def do(self, opcode: str, argument: Any) -> None:
        """Carry out one opcode."""
        if opcode in _NOTHING:
            return
        if opcode in _DATA:
            self._stack.append(argument)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode]())
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        else:
            raise _RefusedError(f"uses the opcode {opcode}, which data does not need")

    def result(self) -> Any:
        """Return what STOP left."""
        if self._result is _MARK:
            raise ValueError("it ends too early")
        return self._result

    def stop(self, _: Any) -> None:
        self._result = self._pop()

    def mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def pop(self, _: Any) -> None:
        self._stack.pop()

    def pop_mark(self, _: Any) -> None:
        self._to_mark()

    def dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def put(self, argument: Any) -> None:
        self._memo[int(argument)] = self._stack[-1]

    def get(self, argument: Any) -> None:
        self._stack.append(self._memo[int(argument)])

    def gather_list(self, _: Any) -> None:
        self._stack.append(self._to_mark())

    def gather_tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._to_mark()))

    def gather_dict(self, _: Any) -> None:
        self._stack.append(_pairs(self._to_mark()))

    def gather_set(self, _: Any) -> None:
        self._stack.append(frozenset(map(require_key, self._to_mark())))

    def tuple_1(self, _: Any) -> None:
        self._gather(1)

    def tuple_2(self, _: Any) -> None:
        self._gather(2)

    def tuple_3(self, _: Any) -> None:
        self._gather(3)

    def append(self, _: Any) -> None:
        value = self._pop()
        self._top(list).append(value)

    def appends(self, _: Any) -> None:
        values = self._to_mark()
        self._top(list).extend(values)

    def add_items(self, _: Any) -> None:
        values = self._to_mark()
        self._top(set).update(map(require_key, values))

    def set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._mapping()[require_key(key)] = value

    def set_items(self, _: Any) -> None:
        pairs = _pairs(self._to_mark())
        self._mapping().update(pairs)

    def name(self, argument: Any) -> None:
        module, _, attribute = str(argument).partition(" ")
        self._push_name(module, attribute)

    def stack_name(self, _: Any) -> None:
        attribute, module = self._pop(), self._pop()
        self._push_name(module, attribute)

    def call(self, _: Any) -> None:
        arguments, what = self._pop(), self._pop()
        self._push_object(what, arguments, {})

    def call_with_names(self, _: Any) -> None:
        named, arguments, what = self._pop(), self._pop(), self._pop()
        self._push_object(what, arguments, named)

    def set_state(self, _: Any) -> None:
        state = self._pop()
        target = self._stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):  # an OrderedDict's attributes are of no interest
            raise ValueError(f"state for a {type(target).__name__}")

    def persistent(self, _: Any) -> None:
        build = self._allowed.get("persistent_id")
        if build is None:
            raise _RefusedError("refers to something outside of it, where nothing may")
        self._stack.append(build(self._pop()))

    def _push_name(self, module: Any, attribute: Any) -> None:
        full = f"{module}.{attribute}"
        if full not in self._allowed:
            raise _RefusedError(
                f"wants {full}, which is not needed to read tensors and may run code. Refused"
            )
        self._stack.append(Name(name=full))

    def _push_object(self, what: Any, arguments: Any, named: Any) -> None:
        if not isinstance(what, Name) or not isinstance(arguments, tuple) or named:
            raise ValueError("a call of something that is not a name")
        build = self._allowed[what.name]
        if build is None:
            self._stack.append(Record(name=what.name, arguments=arguments))
            return
        self._charge(sum(len(one) for one in arguments if isinstance(one, _CONTAINERS)))
        self._stack.append(build(*arguments))

    def _charge(self, elements: int) -> None:
        """Count what calls copy, before it is copied."""
        self._elements += elements
        if self._elements > self._max_elements:
            raise _RefusedError(
                f"copies more than {self._max_elements:,} elements, which a stream of its length "
                "cannot need to hold tensors. Refused"
            )

    def _gather(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def _to_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise ValueError(f"no {kind.__name__} to add to")
        return self._stack[-1]

    def _mapping(self) -> dict[Any, Any]:
        top = self._stack[-1]
        if isinstance(top, Record):
            top.items = {} if top.items is None else top.items
            return top.items
        mapping: dict[Any, Any] = self._top(dict)
        return mapping


_CONTAINERS = (list, tuple, dict, set, frozenset)


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(require_key, values[::2]), values[1::2], strict=True))


_NOTHING = frozenset(("PROTO", "FRAME"))
_DATA = frozenset(
    (
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    )
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
_ACTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "STOP": _Machine.stop,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.dup,
    "MEMOIZE": _Machine.memoize,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "LIST": _Machine.gather_list,
    "TUPLE": _Machine.gather_tuple,
    "DICT": _Machine.gather_dict,
    "FROZENSET": _Machine.gather_set,
    "TUPLE1": _Machine.tuple_1,
    "TUPLE2": _Machine.tuple_2,
    "TUPLE3": _Machine.tuple_3,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.add_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_names,
    "BUILD": _Machine.set_state,
    "BINPERSID": _Machine.persistent,
}
