"""Hosts in network namespaces: what reaches them, and that nothing of them is left."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from launcher.commands.rehearse import network
from launcher.commands.rehearse.network import Network, NoNetworkError, ip, network_of, plug_of

_LONGEST = 15
"""Characters of an interface's name, and one for its end."""


@pytest.fixture
def hosts() -> Iterator[Network]:
    with ExitStack() as until:
        try:
            found = until.enter_context(network_of(2))
        except NoNetworkError as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield found


def reaches(hosts: Network) -> bool:
    """Tell whether the first host answers the second."""
    program = (
        "import socket, sys\n"
        "one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)\n"
        "one.settimeout(0.5)\n"
        "try: one.connect((sys.argv[1], 9))\n"
        "except ConnectionRefusedError: print('reached')\n"
        "except OSError: print('not')\n"
    )
    command = ["nsenter", f"--net={hosts.file(1)}", "python3", "-c", program, hosts.addresses[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout == "reached\n"


def test_a_cable_is_pulled_and_put_in_again(hosts: Network) -> None:
    assert reaches(hosts)
    hosts.cut(1)
    assert not reaches(hosts)
    hosts.mend(1)
    assert reaches(hosts)
    assert hosts.processes(0) == []


def test_nothing_is_left_after_ctrl_c(hosts: Network) -> None:
    names: set[str] = set()

    def interrupted() -> None:
        with network_of(2) as found:
            names.update((*found.names, found.switch))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(names) == 3
    assert not names & {line.split()[0] for line in ip("netns", "list").splitlines()}


@pytest.mark.parametrize(
    ("there", "missing"), [((), "ip"), (("ip",), "nsenter"), (("nsenter",), "ip")]
)
def test_without_a_command(
    there: tuple[str, ...], missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in there:
        (tmp_path / name).touch(mode=0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoNetworkError, match=f"there is no {missing} command"), network_of(2):
        pass


def test_without_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    error = subprocess.CalledProcessError(
        1, ["ip", "netns", "add", "x"], stderr="warning\nOperation not permitted\n"
    )

    def refused(*words: str) -> str:
        raise error

    monkeypatch.setattr(network, "ip", refused)
    with (
        pytest.raises(NoNetworkError, match=r"^ip netns add: Operation not permitted$"),
        network_of(2),
    ):
        pass
    assert network.reason_of(subprocess.CalledProcessError(2, ["ip", "x"])) == "ip x ended with 2"


def test_names_are_short_enough() -> None:
    found = Network.of(254, "abcdefg")
    assert max(len(plug_of(cable)) for cable in found.cables) < _LONGEST
    assert (found.addresses[0], found.addresses[-1]) == ("10.231.7.1", "10.231.7.254")
