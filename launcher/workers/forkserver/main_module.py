"""Run a program as Python itself runs it, in a process that has been running something else.

What the interpreter does around a program stands here in its order (Python's Modules/main.c and
pythonrun.c): `__main__`, sys.argv and sys.path, the unbuffered streams of `-u`, the traceback, the
exit code, the threads and exit handlers at the end.
"""

import builtins
import ctypes
import io
import os
import runpy
import signal
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn, TextIO

from ...plan.python_command import PYTHON_FLAGS, PythonProgram
from ..process_end import Before, end_program, end_python, flush_streams


def run_and_exit(program: PythonProgram, before: Before | None) -> NoReturn:
    """Run the program as `__main__`, and end the process as the interpreter would.

    Args:
        program: what to run.
        before: what the end may leave as it is, where the program does not fail; None: the
            interpreter takes itself apart.
    """
    renew_streams()
    main = _set_up(program)
    uncaught: BaseException | None = None
    code = 0
    try:
        if program.is_module:
            runpy._run_module_as_main(program.name)  # type: ignore[attr-defined]
        else:
            path = str(main.__file__)
            exec(compile(_read(path), path, "exec", dont_inherit=True), main.__dict__)
    except SystemExit as leaving:
        code = exit_code_of(leaving.code)
    except BaseException as error:
        uncaught = error
    if uncaught is not None:
        code = _show(uncaught)  # here, where it is no longer handled and so no context of others
    if isinstance(uncaught, KeyboardInterrupt):
        _end_by_interrupt()
    del main
    if before is not None and uncaught is None:
        end_program(code, before)
    # Joins the threads, runs the exit handlers, clears __main__, flushes; and never comes back.
    ctypes.pythonapi.Py_Exit(code)
    os._exit(code)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        print(f"{sys.executable}: can't open file {path!r}: {reason}", file=sys.stderr)
        raise SystemExit(2) from None


def exit_code_of(code: Any) -> int:
    """Return the exit code for what was given to sys.exit; prints what is not a number."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def script_folder(script: str) -> str:
    """Return what `python script.py` puts first on sys.path: links in the path are resolved."""
    return os.path.dirname(os.path.realpath(script))


def renew_streams() -> None:
    """Open sys.stdin, stdout and stderr anew on the process's descriptors, as `python -u` does."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _open_stream(fd, f"<{name}>", getattr(sys, f"__{name}__"))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _open_stream(fd: int, name: str, old: TextIO | None) -> TextIO | None:
    writes = fd != 0
    try:
        buffer: Any = open(fd, "wb" if writes else "rb", 0 if writes else -1, closefd=False)  # noqa: SIM115
    except OSError:
        return None  # the launcher was started with it closed
    (buffer if writes else buffer.raw).name = name
    stream = io.TextIOWrapper(
        buffer,
        encoding=getattr(old, "encoding", None) or "utf-8",
        errors=getattr(old, "errors", None) or ("backslashreplace" if fd == 2 else "strict"),
        newline="\n",
        write_through=True,
    )
    stream.mode = "w" if writes else "r"  # type: ignore[misc]
    return stream


def _set_up(program: PythonProgram) -> ModuleType:
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __annotations__={}, __spec__=None)
    module_words = ("-m", program.name) if program.is_module else (program.name,)
    sys.orig_argv[:] = [sys.executable, *PYTHON_FLAGS, *module_words, *program.args]
    if program.is_module:
        first = os.getcwd()
        sys.argv[:] = ["-m", *program.args]
    else:
        path = program.name if os.path.isabs(program.name) else f"{os.getcwd()}/{program.name}"
        main.__dict__.update(
            __file__=path, __cached__=None, __loader__=SourceFileLoader("__main__", path)
        )
        first = script_folder(program.name)
        sys.argv[:] = [program.name, *program.args]
    if not sys.flags.safe_path:
        sys.path[0] = first
    sys.modules["__main__"] = main
    return main


def _show(error: BaseException) -> int:
    """Print an uncaught exception without the frames of this module; return the exit code."""
    trace = _user_part(error.__traceback__)
    error.__traceback__ = trace
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    try:
        sys.excepthook(type(error), error, trace)
    except SystemExit as leaving:
        return exit_code_of(leaving.code)
    except BaseException as in_hook:
        print("Error in sys.excepthook:", file=sys.stderr)
        in_hook.__traceback__ = _user_part(in_hook.__traceback__)
        sys.__excepthook__(type(in_hook), in_hook, in_hook.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(error), error, trace)
    return 1


def _user_part(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _end_by_interrupt() -> NoReturn:
    """End by SIGINT itself, so that the waiting process sees why."""
    end_python()
    flush_streams()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(128 + signal.SIGINT)
