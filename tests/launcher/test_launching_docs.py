"""docs/launching.md: every option is in it, and every option in it is one."""

import re
import shlex
from pathlib import Path

import pytest

from launcher.agent.attempts.supervision import Bounds
from launcher.command_line.ignored_options import _WITHOUT_MEANING
from launcher.command_line.option_table import OPTIONS
from launcher.command_line.parser import parse_command_line
from launcher.contract.environment import INTERFACE_NAMES, NCCL_INTERFACE, SECRET
from launcher.contract.exit_codes import CONTINUE, DO_NOT_RETRY, DONE, USAGE
from launcher.contract.launcher_signals import SAME_KEYPRESS_S
from launcher.contract.quiet_clock import LONGEST_GAP_S
from launcher.plan.options import LaunchOptions, NodeOptions
from launcher.plan.secret import MIN_CHARS
from launcher.rendezvous.node_link import LOST_S
from launcher.rendezvous.reminder import REMIND_S
from launcher.workers.forkserver.client import ANSWER_S

TEXT = (Path(__file__).parents[2] / "docs" / "launching.md").read_text()
COMMANDS = re.findall(r"^    relaunch (.+)$", TEXT, flags=re.M)


def test_the_options_are_those_of_the_table():
    mentioned = set(re.findall(r"`(--?[a-z][a-z-]*)", TEXT))
    names = {option.name for option in OPTIONS}
    assert mentioned - {option.short for option in OPTIONS} == names


def test_what_has_no_effect_is_in_that_row():
    (row,) = [line for line in TEXT.splitlines() if line.startswith("| accepted, without effect")]
    assert set(re.findall(r"`(--[a-z-]+)`", row)) == set(_WITHOUT_MEANING) - {"--container"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_understood(command):
    assert isinstance(parse_command_line(shlex.split(command), {}), LaunchOptions)


def test_there_are_commands():
    assert len(COMMANDS) == 3


@pytest.mark.parametrize(
    ("sentence", "value"),
    [
        (r"nodes are reported every (\d+) s", REMIND_S),
        (r"join_timeout=(\d+)", NodeOptions().join_timeout_s),
        (r"detected within (\d+) s", LOST_S),
        (r"the others have (\d+) s to do the same", Bounds().leave_s),
        (r"Once one rank has exited with 75, the others have (\d+) s", Bounds().leave_s),
        (r"the same on all nodes, (\d+) characters or more", MIN_CHARS),
        (r"does not answer within (\d+) s", ANSWER_S),
    ],
)
def test_the_numbers_are_those_of_the_code(sentence, value):
    (found,) = re.findall(sentence, " ".join(TEXT.split()))
    assert float(found) == value


def test_the_numbers_in_words():
    assert "half a second later or more" in TEXT
    assert SAME_KEYPRESS_S == 0.5
    assert LOST_S + Bounds().lost_s < 15
    assert LONGEST_GAP_S < 5


def test_the_codes_are_those_of_the_table():
    rows = re.findall(r"^\| (\d+) \|", TEXT, flags=re.M)
    assert {int(row) for row in rows} == {DONE, CONTINUE, USAGE, DO_NOT_RETRY}


def test_the_variables_are_those_of_the_code():
    for name in (*INTERFACE_NAMES, NCCL_INTERFACE, SECRET):
        assert f"`{name}`" in TEXT
