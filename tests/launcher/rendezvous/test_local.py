"""Where the ranks of one machine meet."""

import subprocess
import sys

import pytest

from launcher.errors import UsageError
from launcher.rendezvous.local import bind

WITHOUT_LOOPBACK = ["unshare", "-n"]


def test_a_free_port_is_listened_on() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0


def test_a_taken_port_is_refused() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UsageError, match=f"--master-port {port} cannot be used"):
            bind("127.0.0.1", port)


def test_a_machine_without_a_route_to_itself_is_refused() -> None:
    if subprocess.run([*WITHOUT_LOOPBACK, "true"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")
    script = (
        "from launcher.errors import UsageError\n"
        "from launcher.rendezvous.local import bind\n"
        "try:\n    bind('127.0.0.1', 0)\n"
        "except UsageError as error:\n    print(error)"
    )
    done = subprocess.run(
        [*WITHOUT_LOOPBACK, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "on 127.0.0.1: this machine has no route to it, although it is its own" in done.stdout
