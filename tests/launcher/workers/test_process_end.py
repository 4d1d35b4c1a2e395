"""The quick end of a process does what a program can notice of Python's own end."""

import subprocess
import sys
from pathlib import Path

import pytest

HELPER = """\
class Log:
    def __init__(self):
        self.file = open("helper", "w")
        self.me = self  # only a collection of garbage finds it

log = Log()
log.file.write("from the module beside")
"""

PROGRAM = """\
import atexit, os, sys, threading, time
import helper

order = os.open("order", os.O_WRONLY | os.O_CREAT)

def note(word, fd=order, write=os.write):  # a destructor may find no other names
    write(fd, f"{word} ".encode())

class Cycle:
    def __init__(self):
        self.me, self.file = self, open("cycle", "w")
        self.file.write("from a cycle")

    def __del__(self, note=note):
        note("destructor")

def late():
    time.sleep(0.2)
    note("thread")

left_open = open("left_open", "w")
left_open.write("from the script")
cycle = Cycle()
atexit.register(note, "handler 1")
atexit.register(note, "handler 2")
threading.Thread(target=late).start()
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print("no line end", end="")
sys.exit(7)
"""
QUICK = (
    "import sys\n"
    "from launcher.workers.forkserver.main_module import run_and_exit\n"
    "from launcher.plan.python_command import PythonProgram\n"
    "program = PythonProgram(name='script.py', is_module=False, args=())\n"
    "from launcher.workers.process_end import Before\n"
    "from launcher.workers.exit_handlers import mapped_files\n"
    "run_and_exit(program, Before(frozenset(sys.modules), mapped_files()))\n"
)
"""What a rank does with its script."""
WAYS = {"Python's own end": ("script.py",), "the quick one": ("-c", QUICK)}


@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS)
def test_a_program_ends_as_python_ends_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "script.py").write_text(PROGRAM)
    ended = _run(tmp_path, *words)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "no line end", "")
    assert (tmp_path / "order").read_text() == "thread handler 2 handler 1 destructor "
    found = {name: (tmp_path / name).read_text() for name in ("left_open", "cycle", "helper")}
    assert found == {
        "left_open": "from the script",
        "cycle": "from a cycle",
        "helper": "from the module beside",
    }


def test_what_a_library_holds_on_to_is_written_out_too(tmp_path: Path) -> None:
    """A function that is registered somewhere keeps its module's names."""
    (tmp_path / "script.py").write_text(
        "import sys\n"
        "import json\n"
        "log = open('log', 'w')\n"
        "json.registered = sys.modules['__main__']\n"
        "log.write('kept')\n"
        "sys.exit(7)\n"
    )
    assert _run(tmp_path, "-c", QUICK).returncode == 7
    assert (tmp_path / "log").read_text() == "kept"


def test_a_daemon_thread_is_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sys, threading, time\n"
        "def forever():\n"
        "    while True:\n"
        "        time.sleep(0.0001)\n"
        "for _ in range(5):\n"
        "    threading.Thread(target=forever, daemon=True).start()\n"
        "log = open('log', 'w')\n"
        "log.write('kept')\n"
        "sys.exit(7)\n"
    )
    ended = _run(tmp_path, "-c", QUICK)
    assert (ended.returncode, ended.stderr) == (7, "")
    assert (tmp_path / "log").read_text() == "kept"


def test_exit_handlers_of_c_libraries_run(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.fopen.restype = ctypes.c_void_p\n"
        "file = libc.fopen(b'buffered', b'w')\n"
        "libc.fputs(b'by C', ctypes.c_void_p(file))\n"
        "sys.exit(7)\n"
    )
    assert _run(tmp_path, "-c", QUICK).returncode == 7
    assert (tmp_path / "buffered").read_text() == "by C"


def test_what_a_c_library_of_the_program_does_at_exit_is_done(tmp_path: Path) -> None:
    (tmp_path / "made.c").write_text(
        "#include <stdio.h>\n"
        "#include <stdlib.h>\n"
        'static void late(void) { FILE *f = fopen("at_exit", "w"); fputs("by C", f); }\n'
        "int f(void) { return atexit(late); }\n"
    )
    try:
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-o", "made.so", "made.c"], cwd=tmp_path, check=True
        )
    except FileNotFoundError:
        pytest.skip("there is no C compiler here")
    (tmp_path / "script.py").write_text(
        "import ctypes, sys\nctypes.CDLL('./made.so').f()\nsys.exit(7)\n"
    )
    assert _run(tmp_path, "-c", QUICK).returncode == 7
    assert (tmp_path / "at_exit").read_text() == "by C"


def test_the_operators_of_torch_are_not_unregistered_where_the_process_ends(tmp_path: Path) -> None:
    """Their finalizers take 30 ms; those of the program are called."""
    (tmp_path / "script.py").write_text(
        "import sys, weakref\n"
        "import torch.library\n"
        "class Thing: pass\n"
        "thing = Thing()\n"
        "weakref.finalize(thing, print, 'mine')\n"
        "torch.library._del_library.__code__ = (lambda *_: print('operator')).__code__\n"
        "sys.exit(7)\n"
    )
    ended = _run(tmp_path, "-c", f"import torch\n{QUICK}")
    assert (ended.returncode, ended.stdout) == (7, "mine\n")


def test_the_launcher_ends_with_its_code_and_its_output(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import atexit\n"
        "atexit.register(print, 'handler')\n"
        "print('no line end', end=' ')\n"
        "from launcher.workers.process_end import end_launcher\n"
        "end_launcher(75)\n"
    )
    ended = _run(tmp_path, "script.py")
    assert (ended.returncode, ended.stdout, ended.stderr) == (75, "no line end handler\n", "")


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=60
    )
