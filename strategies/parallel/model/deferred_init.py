"""Builds a model without memory and remembers how each of its tensors would have been filled.

The tensors of a model that is built under `Recording` are on the meta device. What the factory does
to them (torch's own initialisation, a library's, a constructor's own code) is recorded operation by
operation. `Recorded.value` then carries out only what one tensor needs, with random numbers from
streams of its own, so that a value depends on the seed and the tensor's name and on nothing else.
The idea of deferred initialisation is that of torchdistx (2022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from ...data.seeding import seed_torch
from ...errors import ConfigError

_META = torch.device("meta")
_OVERWRITES = frozenset(
    f"aten::{name}_" for name in ("normal", "uniform", "zero", "fill", "copy", "exponential")
)
"""In-place operations whose result does not depend on what was there."""
_UNFILLED = ("aten::empty", "aten::new_empty")
_READS_A_VALUE = torch.ops.aten._local_scalar_dense.default
_MOVES = torch.ops.aten._to_copy.default


_DISGUISED = {
    vars(torch._C.TensorBase)["is_meta"].__get__: False,
    vars(torch._C.TensorBase)["device"].__get__: torch.device("cpu"),
}


class AsIfOnCpu(TorchFunctionMode):
    """Makes tensors of the meta device report the CPU as their device.

    torch.nn.init and libraries leave a tensor alone, silently, when they see it has no memory.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Answer for tensors without memory as for those that have some."""
        found = func(*args, **(kwargs or {}))
        return _DISGUISED[func] if func in _DISGUISED and found in (True, _META) else found


@dataclass(frozen=True)
class _Ref:
    """A tensor as it was when an operation used it: a window on a storage."""

    storage: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def to(cls, tensor: torch.Tensor) -> _Ref:
        storage = tensor.untyped_storage()._cdata
        return cls(
            storage,
            tensor.dtype,
            tuple(tensor.shape),
            tensor.stride(),
            int(tensor.storage_offset()),
        )

    def on(self, storage: torch.UntypedStorage) -> torch.Tensor:
        empty = torch.empty(0, dtype=self.dtype)
        return empty.set_(storage, self.offset, self.shape, self.stride)


@dataclass(frozen=True)
class _Call:
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    """With a _Ref in place of each tensor without memory, and a copy of each other tensor."""
    reads: tuple[_Ref, ...]
    results: tuple[_Ref, ...]
    is_random: bool


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, tensors are made without memory. Not for use by several threads at once."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seeds: dict[int, int] = {}
        """Of random operations whose result the factory has looked at, by their number."""
        self._seed = seed
        self._calls: list[_Call] = []
        self._writers: dict[int, list[int]] = {}
        self._overwritten: dict[int, list[int]] = {}
        self._alive: list[torch.UntypedStorage] = []
        """So that no storage's number is used again."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Carry out one operation without memory, and remember it."""
        kwargs = dict(kwargs or {})
        leaves = tree_flatten((args, kwargs))[0]
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if any(isinstance(leaf, torch.Generator) for leaf in leaves):
            raise ConfigError(
                f'init="by-name": the model draws from a generator of its own ({func}), so its '
                'values cannot be drawn by name. Use init="as-built".'
            )
        if not tensors and _takes_device(func):
            kwargs["device"] = _META
        elif not any(t.device == _META for t in tensors):
            return func(*args, **kwargs)
        device = kwargs.get("device")
        if func is _READS_A_VALUE or (func is _MOVES and device not in (None, _META)):
            return func(self._looked_at(args[0]), *args[1:], **kwargs)
        result = args[0] if is_plain_in_place(func) else _run_on_meta(func, args, kwargs)
        self._remember(func, args, kwargs, tensors, result)
        return result

    def _remember(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: list[torch.Tensor],
        result: Any,
    ) -> None:
        made = [t for t in tree_flatten(result)[0] if isinstance(t, torch.Tensor)]
        reads = tuple(_Ref.to(t) for t in tensors if t.device == _META)
        results = tuple(_Ref.to(t) for t in made)
        old = {ref.storage for ref in reads}
        if not func._schema.is_mutable and all(ref.storage in old for ref in results):
            return  # A view: whoever uses it says where it looks.
        self._alive += [t.untyped_storage() for t in made]
        number = len(self._calls)
        kept_args, kept_kwargs = tree_map(_without_tensors, (args, kwargs))
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        self._calls.append(_Call(func, kept_args, kept_kwargs, reads, results, is_random))
        # An operation that changes one of several tensors is taken to change them all.
        for storage in {r.storage for r in (results if not func._schema.is_mutable else reads)}:
            self._writers.setdefault(storage, []).append(number)
        if func._schema.name in _OVERWRITES and _is_whole(args[0]):
            self._overwritten.setdefault(results[0].storage, []).append(number)

    def _looked_at(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the real value of a tensor; what is random in it is drawn now and stays so."""
        for number in self.random_calls(tensor):
            self.seeds.setdefault(number, _seed_for(self._seed, "operation", number))
        return self.value(tensor)

    def name_seeds(self, named: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Give each random operation the name of the first tensor that needs it.

        Tensors that come from one draw, such as layers copied from another, stay equal.
        """
        for name, tensor in named:
            for ordinal, number in enumerate(self.random_calls(tensor)):
                self.seeds.setdefault(number, _seed_for(self._seed, name, ordinal))

    def is_filled(self, tensor: torch.Tensor) -> bool:
        """Return whether anything but memory is behind a tensor."""
        names = (self._calls[number].func._schema.name for number in self._needed(tensor))
        return tensor.numel() == 0 or not all(name.startswith(_UNFILLED) for name in names)

    def value(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a new tensor on the CPU that holds what the factory gave this one."""
        with torch.random.fork_rng(devices=[]):
            return self._replay(tensor)

    def random_calls(self, tensor: torch.Tensor) -> list[int]:
        """Return the numbers of the random operations that a tensor's value comes from."""
        return [n for n in self._needed(tensor) if self._calls[n].is_random]

    def _replay(self, tensor: torch.Tensor) -> torch.Tensor:
        storages: dict[int, torch.UntypedStorage] = {}
        for number in self._needed(tensor):
            call = self._calls[number]
            args, kwargs = tree_map(lambda x: _with_tensors(x, storages), (call.args, call.kwargs))
            if call.is_random:
                seed_torch(self.seeds[number])
            with torch.no_grad():
                made = call.func(*args, **kwargs)
            tensors = [t for t in tree_flatten(made)[0] if isinstance(t, torch.Tensor)]
            for ref, real in zip(call.results, tensors, strict=True):
                if ref.storage not in storages:
                    storages[ref.storage] = _laid_out(real, ref)
        ref = _Ref.to(tensor)
        return ref.on(storages[ref.storage]).clone(memory_format=torch.contiguous_format)

    def _needed(self, tensor: torch.Tensor) -> list[int]:
        needed: set[int] = set()
        todo = [(tensor.untyped_storage()._cdata, len(self._calls))]
        while todo:
            storage, before = todo.pop()
            writers = [n for n in self._writers.get(storage, ()) if n < before]
            covered = [n for n in self._overwritten.get(storage, ()) if n < before]
            if covered:  # The first is its creation; what else came before is lost anyway.
                writers = writers[:1] + [n for n in writers[1:] if n >= covered[-1]]
            for number in set(writers) - needed:
                needed.add(number)
                todo += [(ref.storage, number) for ref in self._calls[number].reads]
        return sorted(needed)


def _seed_for(seed: int, name: str, ordinal: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{name}/{ordinal}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def is_plain_in_place(func: Any) -> bool:
    """Return whether only values change; the meta device has nothing to do then."""
    schema = func._schema
    first = schema.arguments[0].alias_info if schema.arguments else None
    return bool(
        schema.name.endswith("_")
        and first is not None
        and first.is_write
        and len(schema.returns) == 1
        and torch.Tag.inplace_view not in func.tags
    )


def _run_on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    def on_meta(leaf: Any) -> Any:
        return leaf.to(_META) if isinstance(leaf, torch.Tensor) else leaf

    args, kwargs = tree_map(on_meta, (args, kwargs))
    return func(*args, **kwargs)


def _is_whole(tensor: torch.Tensor) -> bool:
    size_bytes = tensor.numel() * tensor.element_size()
    return size_bytes == tensor.untyped_storage().nbytes() and tensor.is_contiguous()


def _without_tensors(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return _Ref.to(leaf) if leaf.device == _META else leaf.detach().clone()


def _with_tensors(leaf: Any, storages: dict[int, torch.UntypedStorage]) -> Any:
    if isinstance(leaf, _Ref):
        return leaf.on(storages[leaf.storage])
    return torch.device("cpu") if leaf == _META else leaf


def _laid_out(real: torch.Tensor, ref: _Ref) -> torch.UntypedStorage:
    if (real.stride(), real.storage_offset()) == (ref.stride, ref.offset):
        return real.untyped_storage()
    return torch.empty_strided(ref.shape, ref.stride, dtype=ref.dtype).copy_(real).untyped_storage()
