"""How a process that has imported torch ends without taking the interpreter apart.

Python's own end clears every module, one by one: with torch loaded 0.2 to 0.3 s, in which nothing
happens that anybody waits for but the end. Here it does what a program can notice, in Python's
order: it waits for threads, calls exit handlers, destroys what the program itself holds, flushes
the streams. The modules that were there before the program are left to the kernel, and so are
torch's libraries: their exit handlers, which nobody would see, take 0.1 s.
"""

import atexit
import contextlib
import ctypes
import gc
import io
import os
import sys
import threading
import weakref
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from .exit_handlers import mapped_files, may_have_handlers

_ROOT = Path(__file__).parents[2]
_INSTALLED = (
    f"{Path(os.__file__).parent}{os.sep}",
    *(f"{_ROOT / name}{os.sep}" for name in ("launcher", "strategies", "checkpointing")),
)
"""Where Python's own modules are, and ours; other libraries are in a folder for packages."""
_FOR_PACKAGES = frozenset({"site-packages", "dist-packages"})
_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


@dataclass(frozen=True)
class Before:
    """What was in a process before the program, and need not be taken apart at its end."""

    modules: Collection[str]
    """Names in sys.modules."""
    libraries: Collection[str] = ()
    """Paths; empty: the exit handlers of all C libraries are called."""


def end_launcher(code: int) -> NoReturn:
    """End the launcher, which holds nothing of the user's."""
    _keep_operators()
    end_python()
    flush_streams()
    os._exit(code)


def end_program(code: int, before: Before) -> NoReturn:
    """End a process that has run a program of the user's.

    The program's objects get their destructors, and files that it has left open are written out.
    Where it has brought a C library with an exit handler, all of them run: with the interpreter's
    lock, so that no daemon thread uses what they take away.

    Args:
        code: the exit code.
        before: what does not belong to the program.
    """
    if not _c_has_handlers(before):
        _keep_operators()
    end_python()
    _destroy(before.modules)
    flush_streams()
    c = ctypes.PyDLL(None)
    if _c_has_handlers(before):
        c.exit(code)
    c.fflush(None)
    os._exit(code)


def _c_has_handlers(before: Before) -> bool:
    return may_have_handlers(mapped_files(), before.libraries, os.environ)


def _keep_operators() -> None:
    """Spare torch's own operators their finalizers: at exit they unregister some 200, one by one.

    Where C's exit handlers run, torch needs it.
    """
    finalizers: Collection[weakref.finalize] = getattr(weakref.finalize, "_registry", ())  # type: ignore[type-arg]
    for finalizer in tuple(finalizers):
        _, function, *_ = finalizer.peek() or (None, None)
        name = (getattr(function, "__module__", None), getattr(function, "__qualname__", None))
        if name == ("torch.library", "_del_library"):
            finalizer.atexit = False


def flush_streams() -> None:
    """Write out what sys.stdout and sys.stderr still hold."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def end_python() -> None:
    """Wait for threads and call exit handlers, as Python does before anything is taken apart."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


def _destroy(modules_before: Collection[str]) -> None:
    """Drop the program's modules, with all that only they hold.

    Python would clear such modules name by name. Here a daemon thread may still run. Files are
    flushed before, as a collection closes their parts in no order, and after it.
    """
    _flush_files()
    own = [name for name, module in sys.modules.items() if _is_own(name, module, modules_before)]
    for name in own:
        del sys.modules[name]
    gc.collect()
    _flush_files()


def _flush_files() -> None:
    for held in gc.get_objects():
        if issubclass(type(held), _BUFFERED):
            with contextlib.suppress(OSError, ValueError):
                held.flush()


def _is_own(name: str, module: object, modules_before: Collection[str]) -> bool:
    """Whether a module is the program's; a library sees to its objects by an exit handler."""
    if name == "__main__":
        return True
    file = getattr(module, "__file__", None)
    return (
        name not in modules_before
        and isinstance(module, ModuleType)
        and file is not None
        and not file.startswith(_INSTALLED)
        and _FOR_PACKAGES.isdisjoint(Path(file).parts)
    )
