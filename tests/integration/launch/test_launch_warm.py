"""Warm workers: forks that behave as `python train.py` does, or are not made at all."""

import json
import os
import re
import signal
import sys
import time
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

TWO = ("--nproc-per-node", "2")
FROM_NOW_ON = "Each rank imports torch by itself from now on, as with --cold."
CRASHES = (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL)
WARM = "print('torch' in sys.modules)\n"

DUMP = """
'''The script's own docstring.'''
import json, random, threading
def status(name):
    lines = open("/proc/self/status").read().splitlines()
    value = next(line for line in lines if line.startswith(name + ":")).split()[1]
    return int(value, 16) & 0x7FFF_FFFF  # without the two that the C library keeps to itself
def stream(s):
    return [type(s.buffer).__name__, s.name, s.mode, s.encoding, s.errors, s.line_buffering,
            s.write_through, s.buffer.name, s.fileno()]
seen = {
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "file": __file__,
    "doc": __doc__, "spec": __spec__, "package": __package__, "cached": __cached__,
    "loader": [type(__loader__).__name__, __loader__.name, __loader__.path],
    "globals": sorted(globals()), "main": sys.modules["__main__"].__dict__ is globals(),
    "environ": {k: v for k, v in os.environ.items() if "PORT" not in k and "_FILE" not in k
                and "WARNING_FILE" not in k and "RUN_ID" not in k},
    "proc": open("/proc/self/environ").read().split(chr(0))[0].partition("=")[0] != "",
    "signals": {int(s): str(signal.getsignal(s)) for s in signal.valid_signals()},
    "masks": [status(name) for name in ("SigBlk", "SigIgn", "SigCgt", "Threads")],
    "fds": sorted(os.listdir("/proc/self/fd")), "streams": [stream(s) for s in
        (sys.stdin, sys.stdout, sys.stderr)], "same": sys.stdout is sys.__stdout__,
    "threads": [t.name for t in threading.enumerate()], "session": os.getsid(0) == os.getpid(),
    "ours": [name for name in sys.modules if name.startswith("launcher")],
    "cwd": os.getcwd(), "hooks": sys.excepthook is sys.__excepthook__, "frames":
        sys._getframe().f_code.co_name, "executable": sys.executable,
}
print(json.dumps(seen, default=str))
"""


def said_cold(launched):
    return [line for line in launched.said() if line.endswith(FROM_NOW_ON)]


def warm_and_cold(launch, *argv, **how):
    """Run the same command both ways, and return the two."""
    launches = (launch(*argv, **how), launch("--cold", *argv, **how))
    for launched in launches:
        launched.wait()
    return launches


def test_warm_is_the_default(launch):
    warm, cold = warm_and_cold(launch, launch.script(WARM))
    assert (warm.stdout, cold.stdout) == ("True\n", "False\n")
    assert warm.stderr == cold.stderr == ""


@pytest.mark.parametrize("ignored", [(), ("SIGHUP", "SIGINT")])
@pytest.mark.parametrize("spelled", ["train.py", "./train.py", "sub/../train.py", "link/link.py"])
def test_a_fork_is_like_a_python_of_its_own(launch, spelled, ignored):
    launch.script(DUMP)
    (launch.folder / "sub").mkdir()
    (launch.folder / "link").mkdir()
    (launch.folder / "link" / "link.py").symlink_to("../train.py")
    warm, cold = warm_and_cold(launch, spelled, "--lr", "1", ignored=ignored)
    ours, theirs = (json.loads(launched.stdout) for launched in (warm, cold))
    for seen in (ours, theirs):
        for signum in CRASHES:  # a handler of faulthandler's is unknown to a signal module after it
            seen["signals"].pop(str(signum.value))
    assert ours == theirs


ENDINGS = {
    "nothing": "",
    "none": "sys.exit(None)",
    "true": "sys.exit(True)",
    "large": "sys.exit(256 + 7)",
    "negative": "sys.exit(-1)",
    "text": "sys.exit('that is all')",
    "tuple": "raise SystemExit(('a', 1))",
    "exception": "def f(): raise ValueError('lost')\nf()",
    "cause": "try: 1 / 0\nexcept Exception as e: raise ValueError('lost') from e",
    "group": "raise ExceptionGroup('two', [ValueError(1), KeyError(2)])",
    "syntax": "x = = 1",
    "interrupt": "raise KeyboardInterrupt",
    "hook": "sys.excepthook = lambda *error: print('hook', error[0].__name__)\n1 / 0",
    "bad hook": "def hook(*error): raise TypeError('hook')\nsys.excepthook = hook\n1 / 0",
    "atexit": "import atexit\natexit.register(print, 'at exit')\nsys.exit(3)",
    "atexit after interrupt": "import atexit\natexit.register(print, 'x')\nraise KeyboardInterrupt",
    "thread": "import threading\nthreading.Timer(0.2, print, ['from a thread']).start()",
    "unflushed": "import io\nopen(1, 'w', closefd=False).write('late')",
    "del": "class D:\n    def __del__(self): print('del')\nd = D()",
    "os._exit": "os._exit(9)",
    "stdout closed": "os.close(1)\nprint('x')",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_fork_ends_like_a_python_of_its_own(launch, ending):
    script = launch.folder / "train.py"
    script.write_text(f"import os, sys\nprint('begins')\n{ENDINGS[ending]}\n")
    warm, cold = warm_and_cold(launch, "train.py")
    assert warm.wait() == cold.wait()
    assert warm.stdout == cold.stdout
    assert without_pids(warm.stderr) == without_pids(cold.stderr)


def without_pids(text):
    return [line.partition(", pid ")[0] for line in text.splitlines()]


@pytest.mark.parametrize("how", [(), ("--cold",)])
def test_a_native_crash_shows_its_stack(launch, how):
    script = launch.script("def crash(): os.kill(os.getpid(), signal.SIGSEGV)\ncrash()")
    launched = launch(*how, script)
    assert launched.wait() == 139
    assert "Fatal Python error: Segmentation fault" in launched.stderr
    assert f'File "{launch.folder / script}", line 3 in crash' in launched.stderr


def test_the_accelerator_is_untouched(launch):
    script = launch.script(
        "import torch\nprint(torch.cuda.is_initialized(), torch.cuda._is_in_bad_fork())"
    )
    launched = launch(script)
    assert launched.wait() == 0
    assert launched.stdout == "False False\n"


def test_random_numbers_are_each_rank_s_own(launch):
    script = launch.script(
        """
        import random, numpy, multiprocessing
        print(random.random(), numpy.random.rand(), multiprocessing.current_process().authkey.hex())
        """
    )
    launched = launch(*TWO, script)
    assert launched.wait() == 0
    words = launched.stdout.replace("[rank 1] ", "").split()
    assert len(words) == len(set(words)) == 6


def test_the_parent_is_the_launcher(launch):
    script = launch.script(
        """
        def leave(*args): sys.exit(75)
        signal.signal(signal.SIGTERM, leave)
        os.kill(os.getppid(), signal.SIGUSR1)
        time.sleep(20)
        """
    )
    launched = launch(script)
    assert launched.wait() == 75
    assert launched.said()[0].startswith("relaunch: SIGUSR1: asking the rank to save")


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_multiprocessing(launch, method):
    (launch.folder / "train.py").write_text(
        "import multiprocessing, os, sys\n"
        "def square(x): return x * x, 'torch' in sys.modules\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method('{method}')\n"
        "    with multiprocessing.Pool(2) as pool: print(pool.map(square, [2, 3]))\n"
    )
    launched = launch("train.py")
    assert launched.wait() == 0
    inherited = method == "fork"
    assert launched.stdout == f"[(4, {inherited}), (9, {inherited})]\n"
    assert launched.stderr == ""


def test_a_restart_forks_from_the_same_server(launch):
    script = launch.script(
        WARM
        + """
count = os.environ["TORCHELASTIC_RESTART_COUNT"]
from launcher import beat
beat(1)  # a failure before any progress is not tried again
if count == "0": sys.exit(1)
"""
    )
    launched = launch("--max-restarts", "1", script)
    assert launched.wait() == 0
    assert launched.stdout == "True\nTrue\n"
    assert said_cold(launched) == []


def warm_server_of(launched):
    for pid in Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split():
        if Path(f"/proc/{pid}/comm").read_text() == "relaunch-warm\n":
            return int(pid)
    return None


STOPS_FIRST = """
from launcher import beat
beat(1)
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    pathlib.Path(f"ready-{rank}").touch()
    while not pathlib.Path("go").exists(): time.sleep(0.01)
    sys.exit(1)
"""


def test_ranks_outlive_the_server_and_a_restart_is_cold_then(launch):
    launched = launch("--max-restarts", "1", launch.script(WARM + STOPS_FIRST))
    launched.wait_for_files("ready-0", cwd=launch.folder)
    os.kill(warm_server_of(launched), signal.SIGKILL)
    time.sleep(0.2)
    assert len(launched.processes()) == 1
    (launch.folder / "go").touch()
    assert launched.wait() == 0
    assert launched.stdout == "True\nFalse\n"
    (line,) = said_cold(launched)
    assert line == f"relaunch: the server was killed by SIGKILL. {FROM_NOW_ON}"


def test_a_suspended_server_is_said_and_done_without(launch):
    launched = launch("--max-restarts", "1", launch.script(WARM + STOPS_FIRST))
    launched.wait_for_files("ready-0", cwd=launch.folder)
    os.killpg(warm_server_of(launched), signal.SIGSTOP)
    (launch.folder / "go").touch()
    assert launched.wait() == 0
    assert launched.stdout == "True\nFalse\n"
    (line,) = said_cold(launched)
    assert line == f"relaunch: the server is suspended (SIGSTOP). {FROM_NOW_ON}"


def test_another_python_is_run_cold_and_that_is_said(launch):
    python = launch.folder / "python"
    python.symlink_to(sys.executable)
    launched = launch(launch.script(WARM), env={"PYTHON_EXEC": str(python)})
    assert launched.wait() == 0
    assert launched.stdout == "False\n"
    assert launched.said() == [
        f"relaunch: PYTHON_EXEC names {python}, and relaunch itself runs in {sys.executable}. "
        f"{FROM_NOW_ON}"
    ]


def test_data_loader_workers_that_are_spawned_use_torch(launch):
    (launch.folder / "train.py").write_text(
        "import os, torch\n"
        "class Samples(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 6\n"
        "    def __getitem__(self, i): return torch.full((2,), float(i)), os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    loader = torch.utils.data.DataLoader(Samples(), batch_size=2, num_workers=2,\n"
        "        multiprocessing_context='spawn')\n"
        "    x, pids = zip(*loader)\n"
        "    pids = {int(pid) for batch in pids for pid in batch}\n"
        "    print(torch.cat(x).sum().item(), len(pids), os.getpid() in pids)\n"
    )
    launched = launch("train.py")
    assert launched.wait() == 0, launched.stderr
    assert launched.stdout == "30.0 2 False\n"
    assert launched.stderr == ""


def test_a_module_in_a_fork_is_like_one_in_a_python_of_its_own(launch):
    (launch.folder / "package").mkdir()
    (launch.folder / "package" / "__init__.py").touch()
    launch.script("from . import other\n" + DUMP, "package/train.py")
    (launch.folder / "package" / "other.py").write_text("print('imported', __name__)\n")
    warm, cold = warm_and_cold(launch, "-m", "package.train", "--lr", "1")
    assert warm.stderr == cold.stderr == ""
    ours, theirs = (launched.stdout.splitlines() for launched in (warm, cold))
    assert ours[0] == theirs[0] == "imported package.other"
    seen = [json.loads(re.sub(r" at 0x\w+>", ">", lines[1])) for lines in (ours, theirs)]
    for found in seen:
        for signum in CRASHES:
            found["signals"].pop(str(signum.value))
    assert seen[0] == seen[1]
    assert seen[0]["argv"] == [str(launch.folder / "package" / "train.py"), "--lr", "1"]


def test_the_server_ends_with_a_killed_launcher(launch):
    launched = launch(launch.script("pathlib.Path('ready').touch()\ntime.sleep(60)"))
    launched.wait_for_files("ready", cwd=launch.folder)
    server = warm_server_of(launched)
    launched.send(signal.SIGKILL)
    launched.wait()
    end = time.monotonic() + 10
    while Path(f"/proc/{server}").exists() or launched.processes():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_signals_to_everyone_leave_the_server(launch):
    launched = launch("--max-restarts", "1", launch.script(WARM + STOPS_FIRST))
    launched.wait_for_files("ready-0", cwd=launch.folder)
    server = warm_server_of(launched)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(server, signum)
    (launch.folder / "go").touch()
    assert launched.wait() == 0
    assert launched.stdout == "True\nTrue\n"


def test_a_daemon_made_by_fork_alone_is_found(launch):
    script = launch.script(
        """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                pathlib.Path("daemon").write_text(str(os.getpid()))
                time.sleep(60)
            os._exit(0)
        while not pathlib.Path("daemon").exists(): time.sleep(0.01)
        """
    )
    launched = launch(script)
    assert launched.wait() == 0
    assert launched.processes() == []


def test_ps_shows_the_script(launch):
    script = launch.script(
        "print(open('/proc/self/cmdline').read().strip(chr(0)).split(chr(0))[-3:])\n"
        "print(open('/proc/self/comm').read().strip())"
    )
    launched = launch(script, "--lr", "1")
    assert launched.wait() == 0
    assert launched.stdout.splitlines()[1] == "rank 0"


def test_preload_is_imported_once(launch):
    (launch.folder / "heavy.py").write_text(
        "import os\nPID = os.getpid()\nNULL = open(os.devnull)\nprint('imported')\n"
    )
    script = launch.script("import heavy\nprint(heavy.PID, heavy.NULL.read() == '')")
    launched = launch(*TWO, "--preload", "heavy, json", script)
    assert launched.wait() == 0
    imported, first, second = launched.stdout.replace("[rank 1] ", "").splitlines()
    assert imported == "imported"
    assert first == second
    assert first.endswith(" True")
    assert launched.stderr == ""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=[9], daemon=True)"
            ".start()",
            "import heavy left 1 thread running",
        ),
        ("raise ValueError('not now')", "--preload heavy failed with ValueError: not now"),
        ("import nowhere", "--preload heavy failed with No module named 'nowhere'"),
        (
            "import socket; here = socket.socketpair()",
            "an import has opened socket:[N], socket:[N]",
        ),
        ("import os; os._exit(3)", "the server ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 11)", "the server was killed by SIGSEGV"),
    ],
)
def test_a_preload_that_makes_forks_unsafe(launch, source, reason):
    (launch.folder / "heavy.py").write_text(source)
    launched = launch("--preload", "heavy", launch.script(WARM))
    assert launched.wait() == 0
    assert launched.stdout == "False\n"
    said = re.sub(r"\[\d+\]", "[N]", launched.said()[-1])
    assert said == f"relaunch: {reason}. {FROM_NOW_ON}"


@pytest.mark.parametrize("name", ["nowhere", "json.nowhere", "nowhere.at.all"])
def test_a_preload_that_does_not_exist(launch, name):
    launched = launch("--preload", name, launch.script("print('started')"))
    assert launched.wait() == 2
    (line,) = launched.said()
    assert line.startswith(f"relaunch: error: --preload {name}: there is no module ")
    assert launched.stdout == ""


def test_a_module_beside_the_script_that_python_would_prefer(launch):
    (launch.folder / "queue.py").write_text("MINE = True\n")
    launched = launch(launch.script(WARM + "import queue\nprint(queue.MINE)"))
    assert launched.wait() == 0
    assert launched.stdout == "False\nTrue\n"
    (line,) = said_cold(launched)
    assert line.startswith("relaunch: queue beside the script would be imported in place of ")


def test_an_archive_is_run_cold(launch):
    with zipfile.ZipFile(launch.folder / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", "print('from the archive')")
    launched = launch("app.pyz")
    assert launched.wait() == 0
    assert launched.stdout == "from the archive\n"
    (line,) = said_cold(launched)
    assert line.startswith("relaunch: app.pyz is an archive. ")


def test_stdin_is_rank_0_s(launch):
    script = launch.script(
        "sys.stdout.write(f\"{os.readlink('/proc/self/fd/0')} {sys.stdin.read() == ''}\\n\")"
    )
    launched = launch(*TWO, script)
    assert launched.wait() == 0
    assert sorted(launched.stdout.splitlines()) == ["/dev/null True", "[rank 1] /dev/null True"]
