"""From words to options."""

from pathlib import Path

import pytest

from launcher.command_line import build_parser, parse_command_line, split_command
from launcher.errors import UsageError
from launcher.options import LaunchOptions

TAKES_VALUE = {"--nproc-per-node": True, "--strategy": True, "--version": False, "-h": False}


@pytest.mark.parametrize(
    ("words", "own", "rest"),
    [
        ("train.py", [], ["train.py"]),
        ("train.py --strategy x -h", [], ["train.py", "--strategy", "x", "-h"]),
        ("--strategy ddp train.py a", ["--strategy=ddp"], ["train.py", "a"]),
        ("--nproc_per_node=2 train.py", ["--nproc-per-node=2"], ["train.py"]),
        ("--nproc_per_node -2 train.py", ["--nproc-per-node=-2"], ["train.py"]),
        ("--strategy a=b_c train.py", ["--strategy=a=b_c"], ["train.py"]),
        ("--version", ["--version"], []),
        ("-- --odd.py x", [], ["--odd.py", "x"]),
        ("", [], []),
    ],
)
def test_split(words, own, rest):
    assert split_command(words.split(), TAKES_VALUE) == (own, rest)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--stratgy ddp x.py", "unknown option --stratgy; did you mean --strategy?"),
        (
            "--nproc_per_nod 2 x.py",
            "unknown option --nproc_per_nod; did you mean --nproc-per-node?",
        ),
        ("--qqqq x.py", "unknown option --qqqq."),
        ("--strategy", "--strategy needs a value. See relaunch --help."),
    ],
)
def test_split_refuses(words, message):
    with pytest.raises(UsageError) as caught:
        split_command(words.split(), TAKES_VALUE)
    assert str(caught.value) == message


def test_all_options():
    words = (
        "--nproc-per-node 4 --strategy fsdp --precision bf16 --run-dir r --log_dir=l "
        "--master-addr h --master_port 29500 --max-restarts 3 --grace 2.5 train.py --lr 1e-3"
    )
    assert parse_command_line(words.split()) == LaunchOptions(
        script="train.py",
        script_args=("--lr", "1e-3"),
        nproc_per_node=4,
        strategy="fsdp",
        precision="bf16",
        run_dir=Path("r"),
        log_dir=Path("l"),
        master_addr="h",
        master_port=29500,
        max_restarts=3,
        grace_s=2.5,
    )


def test_nothing_but_a_script():
    assert parse_command_line(["train.py"]) == LaunchOptions(script="train.py")


def test_version_needs_no_script():
    assert parse_command_line(["--version"]) is None


def test_every_option_is_in_the_help(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_command_line(["--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    for action in build_parser()._actions:
        assert action.option_strings[-1] in shown
        assert action.help


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--master-port 70000 x.py", "--master-port 70000 is no port"),
        ("--master-port http x.py", "--master-port http is not a whole number"),
        ("--max-restarts=-1 x.py", "--max-restarts -1 is below 0"),
        ("--grace -1 x.py", "--grace -1 is no number of seconds"),
        ("--grace inf x.py", "--grace inf is no number of seconds"),
        ("--grace nan x.py", "--grace nan is no number of seconds"),
        ("--version=3 x.py", "ignored explicit argument"),
    ],
)
def test_wrong_values(words, part):
    with pytest.raises(UsageError, match=part):
        parse_command_line(words.split())
