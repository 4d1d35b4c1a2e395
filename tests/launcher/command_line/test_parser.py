"""From words to options."""

import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from launcher.command_line.argv import read_words
from launcher.command_line.completion import completion
from launcher.command_line.option_table import OPTIONS, TORCHRUN_OPTIONS
from launcher.command_line.parser import help_text, parse_command_line
from launcher.contract.run_options import RunOptions
from launcher.errors import UsageError
from launcher.plan.options import LaunchOptions, NodeOptions, StreamOptions
from launcher.plan.program import ProgramKind


def parse(words, **environ):
    options = parse_command_line(words.split(), environ)
    assert isinstance(options, LaunchOptions)
    return options


@pytest.mark.parametrize(
    ("words", "own", "rest"),
    [
        ("train.py", {}, "train.py"),
        ("train.py --strategy x -h", {}, "train.py --strategy x -h"),
        ("--strategy ddp train.py a", {"--strategy": "ddp"}, "train.py a"),
        ("--nproc_per_node=2 train.py", {"--nproc-per-node": "2"}, "train.py"),
        ("--nproc_per_node -2 train.py", {"--nproc-per-node": "-2"}, "train.py"),
        ("--strategy a=b_c train.py", {"--strategy": "a=b_c"}, "train.py"),
        ("--nproc 2 --max 3 x.py", {"--nproc-per-node": "2", "--max-restarts": "3"}, "x.py"),
        ("--run x.py", {"--run-path": "1"}, "x.py"),
        ("--mod --stand x", {"--module": "1", "--standalone": "1"}, "x"),
        ("-r 3 -t3 -m x", {"--redirects": "3", "--tee": "3", "--module": "1"}, "x"),
        ("-mr1 -t=2 x", {"--module": "1", "--redirects": "1", "--tee": "2"}, "x"),
        ("-r 0:3,12:1 x", {"--redirects": "0:3,12:1"}, "x"),
        ("--version", {"--version": "1"}, ""),
        ("-- --odd.py x", {}, "--odd.py x"),
        ("", {}, ""),
    ],
)
def test_words(words, own, rest):
    read = read_words(words.split(), {})
    assert {name: given.text for name, given in read.given.items()} == own
    assert list(read.rest) == rest.split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--stratgy ddp x.py", "unknown option --stratgy; did you mean --strategy?"),
        (
            "--nproc_pre_node 2 x.py",
            "unknown option --nproc_pre_node; did you mean --nproc-per-node?",
        ),
        ("--qqqq x.py", "unknown option --qqqq."),
        ("-x x.py", "unknown option -x."),
        ("-c pass", "there is no option -c. To start Python code that is given as text: relaunch"),
        ("--strategy", "--strategy needs a value. See relaunch --help."),
        ("--log-dir --tee 3 x", "--log-dir needs a value. See relaunch --help."),
        ("--master 3 x", "--master could be --master-addr, --master-port. Spell it out."),
        ("--version=3 x", "--version takes no value, but --version=3 gives one."),
        (
            "--start-method thread x",
            "--start-method thread is unknown; choose from fork, forkserver, spawn.",
        ),
    ],
)
def test_words_refused(words, message):
    with pytest.raises(UsageError) as caught:
        read_words(words.split(), {})
    assert str(caught.value).startswith(message)


def test_no_option_of_torchrun_is_missing():
    theirs = {}
    for action in get_args_parser()._actions:
        if action.option_strings and action.dest != "help":
            names = {name.replace("_", "-") for name in action.option_strings}
            theirs[max(names, key=len)] = (names, action.nargs == 0, action.choices)
    # Each torch has its own; the later ones have more.
    ours = {option.name: option for option in TORCHRUN_OPTIONS}
    assert theirs.keys() <= ours.keys()
    for name, (spelled, is_flag, choices) in theirs.items():
        option = ours[name]
        assert spelled == {option.name, option.short} - {None}
        assert is_flag == (option.value is None)
        assert (choices is None) == (not option.choices)
        if name != "--print-completion":  # for which shells, torch leaves to a package
            assert set(choices or ()) <= set(option.choices)


@pytest.mark.parametrize("words", ["--log-line-prefix-template '${rank}: '", "--log_line_p x"])
def test_options_of_a_later_torchrun_are_taken_whatever_is_installed(words):
    read = read_words([*shlex.split(words), "x.py"], {})
    assert read.rest == ("x.py",)
    assert list(read.given) == ["--log-line-prefix-template"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_names_every_option(shell):
    asked = parse_command_line(["--print-completion", shell], {})
    assert asked == f"--print-completion={shell}"
    script = completion(shell)
    assert all(option.name.removeprefix("--") in script for option in OPTIONS)


def test_completion_completes():
    ask = "COMP_WORDS=(relaunch --nproc); COMP_CWORD=1; _relaunch; echo ${COMPREPLY[@]}"
    bash = ["bash", "-c", f"{completion('bash')}\n{ask}"]
    done = subprocess.run(bash, capture_output=True, text=True, check=True)
    assert done.stdout == "--nproc-per-node\n"


def test_every_option_of_torchrun_is_also_a_variable():
    for action in get_args_parser()._actions:
        for option in TORCHRUN_OPTIONS:
            if option.name in action.option_strings:
                assert option.variable == f"PET_{action.dest.upper()}"


def test_environment_yields_to_the_command_line():
    read = parse("--nnodes 1 x.py", PET_NNODES="2", PET_NPROC_PER_NODE="3", PET_MODULE="0")
    assert (read.nodes.num_max, read.nproc_per_node, read.kind) == (1, 3, ProgramKind.SCRIPT)
    assert parse("x", PET_MODULE="1").kind is ProgramKind.MODULE


def test_all_options():
    words = (
        "--nproc-per-node 4 --strategy fsdp --precision bf16 --run-dir r --log_dir=l "
        "--master-addr h --master_port 29501 --max-restarts 3 --grace 2.5 --role trainer "
        "--nnodes 2:4 --node-rank 1 --rdzv-id job --local-addr me --rdzv-conf 'join_timeout=9' "
        "-r 1 -t 0:3,1:2 --local-ranks-filter 0,2 --duplicate-stdout-filters a,,b,c "
        "--hang-timeout 90 --virtual-local-rank --shutdown-timeout 7 "
        "--signals-to-handle SIGQUIT,SIGTERM -m train --lr 1e-3"
    )
    assert parse(words) == LaunchOptions(
        script="train",
        script_args=("--lr", "1e-3"),
        kind=ProgramKind.MODULE,
        nproc_per_node=4,
        run=RunOptions(strategy="fsdp", precision="bf16", run_dir=Path("r")),
        log_dir=Path("l"),
        nodes=NodeOptions(
            num_min=2,
            num_max=4,
            node_rank=1,
            master_addr="h",
            master_port=29501,
            local_addr="me",
            run_id="job",
            join_timeout_s=9,
        ),
        streams=StreamOptions(
            redirects=1, tee={0: 3, 1: 2}, shown=frozenset({0, 2}), stdout_filters=("a,b", "c")
        ),
        role="trainer",
        virtual_local_rank=True,
        max_restarts=3,
        grace_s=2.5,
        terminate_s=7.0,
        hang_timeout_s=90.0,
        warning_signals=(signal.SIGQUIT, signal.SIGTERM),
    )


def test_nothing_but_a_script():
    assert parse("train.py") == LaunchOptions(script="train.py")


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("--master-addr a --master-port 5", ("a", 5)),
        ("--nnodes 2 --node-rank 0 --master-addr a", ("a", 29500)),
        ("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint a", ("a", 29400)),
        ("--rdzv-endpoint a:7", ("a", 7)),
        ("--rdzv_endpoint [::1]:7", ("::1", 7)),
        ("--rdzv_endpoint [::1]", ("::1", None)),
        ("--standalone --rdzv-endpoint a:7", (None, None)),
    ],
)
def test_meeting_place(words, place):
    nodes = parse(f"{words} x.py").nodes
    assert (nodes.master_addr, nodes.master_port) == place


@pytest.mark.parametrize(
    ("text", "timeout_s"),
    [
        ("join_timeout=9", 9),
        ("'timeout=8,is_host=1'", 8),
        ("store_type='a,b',join_timeout=\"7\"", 7),
        ("read_timeout=5", 600),
    ],
)
def test_rendezvous_configuration(text, timeout_s):
    options = parse_command_line(["--rdzv-conf", text, "x.py"], {})
    assert options.nodes.join_timeout_s == timeout_s


def test_help_and_version_need_no_script():
    assert parse_command_line(["--version"], {}) == "--version"
    assert parse_command_line(["-h"], {}) == "--help"


def test_every_option_is_in_the_help():
    shown = help_text()
    for option in OPTIONS:
        assert option.name in shown
        assert option.help


@pytest.mark.parametrize(
    ("words", "notes"),
    [
        ("--start-method fork", ["--start-method fork has no effect: it changes nothing"]),
        ("--event-log-handler null", []),
        ("--nnodes 2 --node-rank 0 --master-addr h --rdzv-conf timeout=9", []),
        (
            "--nnodes 2 --node-rank 0 --master-addr h --rdzv-conf "
            "join_timeout=9,cas_backoff_max_seconds=2,store_type=file",
            [
                "cas_backoff_max_seconds=2,store_type=file in --rdzv-conf have no effect: of its "
                "keys the nodes read join_timeout, timeout, last_call_timeout only."
            ],
        ),
        ("--rdzv-backend c10d", []),
        ("--rdzv-backend etcd", ["--rdzv-backend etcd has no effect: one node needs no server"]),
        (
            "--standalone --rdzv-id 5",
            ["--rdzv-id 5 has no effect: --standalone takes a free port on loopback."],
        ),
        (
            "--rdzv-endpoint a:1 --master-port 7",
            ["--master-port 7 has no effect: --rdzv-endpoint says where."],
        ),
    ],
)
def test_what_has_no_meaning_is_said(words, notes):
    said = parse(f"{words} x.py").notes
    assert len(said) == len(notes)
    assert all(one.startswith(note) for one, note in zip(said, notes, strict=True))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--master-port 70000", "--master-port 70000 is not a port"),
        ("--master-port http", "--master-port http is not a whole number"),
        ("--max-restarts=-1", "--max-restarts -1 is below 0"),
        ("--grace -1", "--grace -1 is not a number of seconds"),
        ("--grace inf", "--grace inf is not a number of seconds"),
        ("--grace nan", "--grace nan is not a number of seconds"),
        ("--nnodes two", "--nnodes two is neither a number of nodes nor MIN:MAX"),
        ("--nnodes 3:2", "--nnodes 3:2 needs 1 <= MIN <= MAX"),
        ("--nnodes 2", "--nnodes 2 needs the address of node 0"),
        ("--nnodes 2 --master-addr a", "--nnodes 2 needs --node-rank R"),
        ("--nnodes 2 --standalone", "--standalone is one node, but --nnodes 2 is several"),
        ("--nnodes 2 --node-rank 2 --master-addr a", "--node-rank 2, but --nnodes is 2 nodes"),
        ("--node-rank 1", "--node-rank 1, but --nnodes is 1 node"),
        ("--nnodes 2 --rdzv-backend etcd", "--rdzv-backend etcd is not supported"),
        ("-m --no-python", "--module and --no-python contradict"),
        ("-r 4", "--redirects 4 is neither one of 0, 1"),
        ("--local-ranks-filter 0,x", "--local-ranks-filter 0,x is not a list of local ranks"),
        ("--rdzv-conf a", "--rdzv-conf a is not KEY=VALUE"),
        ("--rdzv-conf join_timeout=x", "--rdzv-conf join_timeout=x is not a number of seconds"),
        ("--rdzv-endpoint a:b", "--rdzv-endpoint a:b is not HOST:PORT"),
        ("--signals-to-handle SIGFOO", "there is no signal SIGFOO"),
        ("--signals-to-handle SIGKILL", "SIGKILL cannot be a preemption notice"),
        ("--nproc-per-node xpu", "relaunch counts NVIDIA GPUs only"),
    ],
)
def test_wrong_values(words, part):
    with pytest.raises(UsageError) as caught:
        parse(f"{words} x.py")
    assert part in str(caught.value)


def test_a_wrong_variable_is_named():
    with pytest.raises(UsageError, match="PET_NNODES=two is neither"):
        parse("x.py", PET_NNODES="two")
    with pytest.raises(UsageError, match="PET_STANDALONE=yes is neither 0 nor 1"):
        parse("x.py", PET_STANDALONE="yes")
