"""A machine that cannot make another process, thread or file is named in a sentence."""

from types import SimpleNamespace

import pytest

from launcher.agent.node_agent import NodeAgent
from launcher.errors import LauncherError, StartError


class Mistake(LauncherError, RuntimeError):
    """Has its own sentence."""


@pytest.mark.parametrize(
    ("error", "raised", "sentence"),
    [
        (OSError(24, "Too many open files"), StartError, "cannot be started: .*Too many open"),
        (RuntimeError("can't start new thread"), StartError, "cannot be started: can't start new"),
        (Mistake("its own"), Mistake, "^its own$"),
    ],
)
def test_the_ranks_cannot_be_started(error, raised, sentence):
    def start_all(group):
        raise error

    with pytest.raises(raised, match=sentence):
        NodeAgent._start_workers(SimpleNamespace(_start_all=start_all, _workers=[]), None)
