"""A GPU that is pretended: tensors of the host's memory, of which some are said to be on "cuda:0".

torch is told so wherever Python asks (`tensor.device`, `is_cuda`, `.to`, `device=...`,
`torch.cuda`), so that every branch of ours for GPUs is taken, on any machine. Within `TwoPlaces`

- an operation on tensors of both places raises, as on a GPU; a number of no dimension may be of
  the host;
- what would make the host wait for the device is counted in `waits`, by the innermost line of ours
  (see waits.py): a value that is read, a result shaped by values, a copy between the places that is
  not from or to pinned memory and `non_blocking`, an index on the host;
- a copy from the device that is `non_blocking` comes only once somebody waits for it, or the device
  itself reads it. Whoever reads sooner finds what was there before.

A tensor that C++ makes of nothing belongs nowhere until it meets another.
"""

import collections
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.utils.checkpoint
from known_places import KnownPlaces, key_of  # type: ignore[import-not-found]
from pretended_cuda import (  # type: ignore[import-not-found]
    ACCELERATOR,
    CUDA,
    DEVICE,
    current,
    is_cuda,
    wrapper,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from waits import place  # type: ignore[import-not-found]

_HOST = torch.device("cpu")
_aten = torch.ops.aten
_MASKS = (torch.bool, torch.uint8)
_NUMBERS_WELCOME_NOWHERE = {_aten.cat.default, _aten.stack.default}
"""Operations that take no number of the host beside tensors of a device."""
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_COPIES = {"copy_", "_to_copy", "_foreach_copy_", "copy", "set_", "_copy_from", "broadcast_"}
_SHAPED_BY_VALUES = {"nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount"}
_GETTERS = {torch.Tensor.device, torch.Tensor.is_cuda, torch.Tensor.is_cpu}


class Mixed(RuntimeError):
    """An operation that a GPU would refuse."""


def _tensors(*values: Any) -> list[torch.Tensor]:
    return [one for one in tree_iter(values) if isinstance(one, torch.Tensor)]


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows where results are; refuses what meets nowhere."""

    def __init__(self, world: "TwoPlaces") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._world = world

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(one is not torch.Tensor and hasattr(one, "__torch_dispatch__") for one in types):
            subclasses = [t for t in types if t.__module__.startswith("torch.distributed")]
            if subclasses:
                return NotImplemented  # it takes itself apart first
        known = self._world.known
        given = _tensors(args, kwargs)
        places = [known.of(one) for one in given]
        name = func.overloadpacket.__name__
        if name not in _COPIES and not name.startswith("record_stream"):
            self._refuse_mixed(func, given, places)
        self._count_waits(func, name, args, given, places)
        late = self._late_copy(name, args, kwargs)
        if late:
            return args[0]
        with torch._C.DisableTorchFunction():  # what C++ makes is not what Python asks for
            found = func(*args, **kwargs)
        on_device, on_host = "cuda" in places, "cpu" in places or "pinned" in places
        if on_device:
            self._world.give()
        if name in ("index", "index_put_", "_index_put_impl_"):
            on_device, on_host = places[0] == "cuda", places[0] in ("cpu", "pinned")
        if on_device or on_host:
            for one in _tensors(found):
                if known.of(one) is None:
                    known.put(one, "cuda" if on_device else "cpu")
            for one, where in zip(given, places, strict=True):
                if where is None and one.ndim:
                    known.put(one, "cuda" if on_device else "cpu")
        return found

    def _refuse_mixed(self, func: Any, given: Any, places: Any) -> None:
        if "cuda" not in places or not {"cpu", "pinned"} & {*places}:
            return
        packet = func.overloadpacket
        if packet in _INDEXED and places[0] == "cuda":
            return  # indices may be on the host; counted
        takes_numbers = func not in _NUMBERS_WELCOME_NOWHERE
        for one, where in zip(given, places, strict=True):
            if where in ("cpu", "pinned") and not (takes_numbers and one.ndim == 0):
                shapes = [(tuple(t.shape), w) for t, w in zip(given, places, strict=True)]
                raise Mixed(f"{func} takes tensors of both places: {shapes} ({place()})")

    def _count_waits(self, func: Any, name: str, args: Any, given: Any, places: Any) -> None:
        wait = self._world.wait
        if "cuda" not in places:
            return
        if name == "_local_scalar_dense" or name in _SHAPED_BY_VALUES:
            wait(name)
            self._world.settle()
        elif name in ("index", "index_put_", "_index_put_impl_", "index_put"):
            for index in (one for one in args[1] if one is not None):
                if index.dtype in _MASKS:
                    wait("a mask")
                elif self._world.known.of(index) != "cuda":
                    wait("an index of the host")

    def _late_copy(self, name: str, args: Any, kwargs: Any) -> bool:
        """Return whether a copy is left for later; count one that waits."""
        if name not in ("copy_", "_foreach_copy_"):
            return False
        pairs = (
            [(args[0], args[1])] if name == "copy_" else list(zip(args[0], args[1], strict=True))
        )
        known = self._world.known
        rest = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        for target, source in pairs:
            to, of = known.of(target), known.of(source)
            if {to, of} >= {"cuda"} and {to, of} & {"cpu", "pinned"}:
                pinned = "pinned" in (to, of)
                if not (rest and pinned):
                    self._world.wait(f"copy_ {of} -> {to}")
                    self._world.settle()
                elif to == "cuda":
                    self._world.bring(source)
                elif name == "copy_":
                    self._world.give(partial(_copy, target, source.detach().clone()))
                    return True
        return False


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    with torch.no_grad():
        target.copy_(source)


class _Words(TorchFunctionMode):
    """What Python says of places."""

    def __init__(self, world: "TwoPlaces") -> None:
        super().__init__()
        self._world = world

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.device or getattr(func, "__name__", "") == "_parse_to":
            return func(*args, **kwargs)
        known, world = self._world.known, self._world
        getter = getattr(func, "__self__", None)
        if (
            getattr(func, "__name__", "") == "__get__"
            and getter in _GETTERS
            and not args[0].is_meta
        ):
            on_device = known.of(args[0]) == "cuda"
            if getter is torch.Tensor.device:
                return DEVICE if on_device else _HOST
            return on_device == (getter is torch.Tensor.is_cuda)
        name = getattr(func, "__name__", "")
        if name in ("to", "cpu", "cuda") and args and isinstance(args[0], torch.Tensor):
            return self._moved(name, func, args, kwargs)
        if name in ("numpy", "__array__") and known.of(args[0]) == "cuda":
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name == "tolist" and known.of(args[0]) == "cuda":
            world.wait("tolist")
            world.settle()
            with world.uncounted():
                return func(*args, **kwargs)
        if name == "is_pinned":
            return known.of(args[0]) == "pinned"
        if name == "pin_memory":
            found = args[0].clone()
            known.put(found, "pinned")
            return found
        if name == "record_stream":
            return None
        if name == "get_device":
            return 0 if known.of(args[0]) == "cuda" else -1
        return self._made(name, func, args, kwargs)

    def _made(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Carry out a function in the host's memory; its results are where it was told."""
        known, world = self._world.known, self._world
        pins = kwargs.pop("pin_memory", False)
        asked: list[Any] = [o for o in tree_iter((args, kwargs)) if isinstance(o, torch.device)]
        asked += [one for one in kwargs.values() if isinstance(one, str) and is_cuda(one)]
        if isinstance(kwargs.get("device"), str):
            asked.append(torch.device(kwargs["device"]))

        def on_host(value: Any) -> Any:
            return _HOST if is_cuda(value) else value

        args, kwargs = tree_map(on_host, (args, kwargs))
        found = func(*args, **kwargs)
        results = _tensors(found)
        given = {key_of(one) for one in _tensors(args, kwargs)}
        fresh = [one for one in results if key_of(one) not in given and not one.is_meta]
        if asked and name not in ("backward",):
            to_device = any(map(is_cuda, asked))
            if to_device and name in ("tensor", "as_tensor", "asarray", "scalar_tensor"):
                world.wait(f"torch.{name} of the host's numbers")
            for one in fresh:
                known.put(one, "cuda" if to_device else "cpu")
        elif not given or pins:
            for one in fresh:
                if known.of(one) is None or pins:
                    known.put(one, "pinned" if pins else "cpu")
        return found

    def _moved(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor, *rest = args
        known = self._world.known
        target: Any = {"cpu": _HOST, "cuda": DEVICE}.get(name)
        dtype = kwargs.pop("dtype", None)
        if (device := kwargs.pop("device", None)) is not None:
            target = torch.device(device)
        for one in rest:
            if isinstance(one, torch.dtype):
                dtype = one
            elif isinstance(one, torch.Tensor):
                target = DEVICE if known.of(one) == "cuda" else _HOST
                dtype = one.dtype
            elif isinstance(one, torch.device | str):
                target = torch.device(one)
        options = {k: v for k, v in kwargs.items() if k in ("copy", "memory_format")}
        if target is not None and target.type == "meta":
            return tensor.to("meta", dtype)
        if tensor.is_meta:
            return tensor.to(_HOST, dtype)  # refused as ever
        here = known.of(tensor)
        is_same = target is None or is_cuda(target) == (here == "cuda")
        if is_same:
            return (
                tensor.to(dtype, **options)
                if dtype is not None
                else (tensor.clone() if options.get("copy") else tensor)
            )
        to_device, later = is_cuda(target), bool(kwargs.get("non_blocking"))
        if not later or (to_device and here != "pinned"):
            self._world.wait(f"to {target}")
            self._world.settle()
        elif to_device:
            self._world.bring(tensor)
        with self._world.uncounted():
            found = tensor.clone() if dtype is None or dtype == tensor.dtype else tensor.to(dtype)
        known.put(found, "cuda" if to_device else "cpu")
        if later and not to_device and not found.requires_grad:
            self._come_later(found)
        return found

    def _come_later(self, found: torch.Tensor) -> None:
        """Have a copy to the host, for which torch takes pinned memory, hold nothing yet."""
        kept = found.clone()
        found.fill_(float("nan") if found.is_floating_point() else 1)
        self._world.known.put(found, "pinned")
        self._world.give(partial(_copy, found, kept))


class TwoPlaces:
    """Pretends a GPU within `with`, in this thread."""

    def __init__(self) -> None:
        self.known = KnownPlaces()
        self.waits: Counter[str] = Counter()
        self.registered: dict[int, int] = {}
        """Bytes of memory that is locked, by address."""
        self.done = 0
        """How much of what the device was given is known to be done."""
        self.given = 0
        """Operations that it was given."""
        self._queue: collections.deque[tuple[int, Callable[[], None]]] = collections.deque()
        self._copying = threading.RLock()
        self._host = threading.get_ident()
        self._is_counting = True
        self._ways_back = contextlib.ExitStack()

    def wait(self, how: str) -> None:
        """Count a wait, if it is one of ours and of the thread that trains."""
        if threading.get_ident() != self._host:
            return
        if self._is_counting and (where := place(besides="late_number.py")) is not None:
            self.waits[f"{where} ({how})"] += 1

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        if threading.get_ident() != self._host:
            yield
            return
        before, self._is_counting = self._is_counting, False
        try:
            yield
        finally:
            self._is_counting = before

    def give(self, copy: Callable[[], None] | None = None) -> None:
        """Give the device something to do; only a copy is left for later."""
        self.given += 1
        if copy is not None:
            self._queue.append((self.given, copy))

    def bring(self, source: torch.Tensor) -> None:
        """Let what the device was to copy to a tensor come: it reads it now, in its own order."""
        key = key_of(source)
        with self._copying, self.uncounted():
            for number, copy in list(self._queue):
                if isinstance(copy, partial) and key_of(copy.args[0]) == key:
                    self._queue.remove((number, copy))
                    copy()

    def settle(self, upto: int | None = None) -> None:
        """Return once the device has done what it was given, up to there; in any thread."""
        with self._copying:  # what another thread waits for may be half done
            upto = max(self.done, self.given if upto is None else upto)
            while self._queue and self._queue[0][0] <= upto:
                with self.uncounted():
                    self._queue.popleft()[1]()
            self.done = upto

    def __enter__(self) -> "TwoPlaces":
        current.append(self)
        for name, value in CUDA.items():
            self._replace(torch.cuda, name, value)
        for name, value in ACCELERATOR.items():
            self._replace(torch.accelerator, name, value)
        for name in ("from_numpy", "frombuffer"):
            self._replace(torch, name, self._of_the_host(getattr(torch, name)))
        self._replace(torch.Tensor, "_make_wrapper_subclass", staticmethod(wrapper))
        autograd: Any = torch.autograd
        run_backward = autograd._engine_run_backward

        def run_with_words(*args: Any, **kwargs: Any) -> Any:
            with _Words(self):  # torch has put the other away while it is in a function
                return run_backward(*args, **kwargs)

        self._replace(autograd, "_engine_run_backward", run_with_words)
        autocast = torch.autocast

        def autocast_here(device_type: str, *args: Any, **kwargs: Any) -> Any:
            return autocast("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

        self._replace(torch, "autocast", autocast_here)
        # Beneath Python a recomputation finds what it saves where it is.
        checks: Any = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        self._ways_back.callback(checks.update, {"default": checks["default"]})
        checks["default"] = lambda tensor: {"shape": tensor.shape, "dtype": tensor.dtype}
        self._ways_back.enter_context(_Operations(self))
        self._ways_back.enter_context(_Words(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._ways_back.close()
        current.pop()

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        self._ways_back.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def _of_the_host(self, make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def made(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = make(*args, **kwargs)
            address = tensor.data_ptr()
            locked = any(a <= address < a + size for a, size in self.registered.items())
            self.known.put(tensor, "pinned" if locked else "cpu")
            return tensor

        return made
