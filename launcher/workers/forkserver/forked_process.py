"""Processes that another process has forked, and that the launcher adopts."""

import os
import signal
import time

from .child import GO
from .prctl import adopt_orphans


class ForkedProcess:
    """A process forked by the fork server and adopted by the launcher."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self, timeout: float) -> int:
        """Reap it.

        Raises:
            TimeoutError: It is still there after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, signal.SIGKILL  # it never became the launcher's
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise TimeoutError
            else:
                time.sleep(0.005)
        return self.returncode


class ForkedGroup:
    """The ranks of one attempt between their fork and their beginning.

    They wait at a pipe until the launcher is their parent and knows all of them. Should it end
    before, so does the pipe, and with it the ranks.
    """

    def __init__(self) -> None:
        adopt_orphans(True)
        self.wait_end, self._go_end = os.pipe()
        self._pids: list[int] = []

    def add(self, pid: int) -> ForkedProcess:
        """Count a rank in."""
        self._pids.append(pid)
        return ForkedProcess(pid)

    def begin(self, bound_s: float) -> None:
        """Let the ranks run; the process that forked them has ended or is about to.

        Adopting ends here too: what a rank leaves behind goes to init as ever, which reaps it, and
        not to a launcher that knows nothing of it.
        """
        end = time.monotonic() + bound_s
        while not all(_is_child(pid) for pid in self._pids) and time.monotonic() < end:
            time.sleep(0.001)
        adopt_orphans(False)
        os.write(self._go_end, GO * len(self._pids))
        self.close()

    def close(self) -> None:
        """Close the pipe: ranks that have not begun end."""
        os.close(self.wait_end)
        os.close(self._go_end)


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
