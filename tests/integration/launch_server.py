"""Runs `relaunch` in forks of a process that has imported torch once, so that a test costs little.

Each launcher is a process of its own with fresh signal handlers; only its import is shared.
Reads one JSON request per line and answers with the launcher's process id.
"""

import ctypes
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import launcher.agent.node_agent  # noqa: F401  (the import that takes seconds)
from launcher.agent.attempts.supervision import Bounds
from launcher.cli import main

CLONE_NEWNET = 0x40000000


def enter_network(namespace: str) -> None:
    """Move this process into a network namespace that `ip netns add` has made."""
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    os.close(fd)


def become_launcher(request: dict[str, Any]) -> None:
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in request["ignored"]:
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.argv = ["relaunch", *request["argv"]]
    for fd, path in ((1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # A dataclass keeps its defaults there: in this process some waits are shorter.
    (Bounds.__init__.__kwdefaults__ or {}).update(request.get("bounds") or {})
    try:
        if request.get("cgroup"):
            (Path(request["cgroup"]) / "cgroup.procs").write_text(str(os.getpid()))
        if request.get("network"):
            enter_network(request["network"])
        main()
    except SystemExit as leaving:
        sys.stdout.flush()
        os._exit(leaving.code if isinstance(leaving.code, int) else 0)
    except BaseException:
        traceback.print_exc()
    os._exit(70)


def serve() -> None:
    status_files: dict[int, Path] = {}
    while True:
        ready, _, _ = select.select([0], [], [], 0.01)
        if ready:
            line = sys.stdin.readline()
            if not line:
                return
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                become_launcher(request)
            status_files[pid] = Path(request["status"])
            print(pid, flush=True)
        for pid, path in tuple(status_files.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                unfinished = path.with_suffix(".part")
                unfinished.write_text(str(os.waitstatus_to_exitcode(status)))
                unfinished.replace(path)
                del status_files[pid]


if __name__ == "__main__":
    serve()
