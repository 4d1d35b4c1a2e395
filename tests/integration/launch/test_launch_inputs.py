"""Mistakes on the command line: one sentence, exit code 2, nothing started."""

import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[3]
MAIN = "from launcher.cli import main; main()"


def refused(launch, *argv):
    """Return the sentence with which the command was refused."""
    launch.script("pathlib.Path('started').touch()")
    launched = launch(*argv)
    assert launched.wait() == 2
    assert launched.stdout == ""
    assert not (launch.folder / "started").exists()
    (line,) = launched.stderr.splitlines()
    assert line.startswith("relaunch: error: ")
    return line.removeprefix("relaunch: error: ")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            ("--strategy", "fdsp", "train.py"),
            'unknown strategy "fdsp"; choose from accelerate, auto, ddp, fsdp, single, zero1, '
            "zero2, zero3.",
        ),
        (
            ("--precision", "fp8", "train.py"),
            'unknown precision "fp8"; choose from bf16, fp16, fp32.',
        ),
        (
            ("--precision", "fp16", "train.py"),
            "fp16 needs a GPU; this machine shows none: no GPU (CUDA_VISIBLE_DEVICES=). "
            "Use --precision bf16 or fp32.",
        ),
        (("trian.py",), "trian.py does not exist; did you mean train.py?"),
        (("swep",), "swep is neither a script nor a subcommand; did you mean relaunch sweep?"),
        (
            ("wach", "--help"),
            "wach is neither a script nor a subcommand; did you mean relaunch watch?",
        ),
        (
            ("--nproc-per-node", "2", "trains"),
            "trains does not exist; did you mean train.py?",
        ),
        (("sweep.py",), "sweep.py does not exist."),
        (("nowhere/train.py",), "nowhere/train.py does not exist: there is no folder nowhere."),
        ((".",), ". is a folder, not a script."),
        ((), "no script is given: relaunch [options] script.py [script args]."),
        (
            ("--nproc-per-node", "0", "train.py"),
            "--nproc-per-node 0 is neither a number from 1 on nor one of auto, gpu, cpu.",
        ),
        (
            ("--nproc-per-node", "two", "train.py"),
            "--nproc-per-node two is neither a number from 1 on nor one of auto, gpu, cpu.",
        ),
        (
            ("--nproc-per-node", "gpu", "train.py"),
            "--nproc-per-node gpu, but this machine shows no GPU (CUDA_VISIBLE_DEVICES=). "
            "Pass a number or cpu.",
        ),
        (
            ("--strategy", "single", "--nproc-per-node", "2", "train.py"),
            "--strategy single is one rank, but --nproc-per-node 2 is 2. "
            "Pass --nproc-per-node 1 or another strategy.",
        ),
        (("--stratgy", "ddp", "train.py"), "unknown option --stratgy; did you mean --strategy?"),
        (("--max-restarts", "-1", "train.py"), "--max-restarts -1 is below 0."),
        (("--grace", "soon", "train.py"), "--grace soon is not a number of seconds."),
        (
            ("--strategy", "single", "--nnodes=2", "--node-rank=0", "--master-addr=a", "train.py"),
            "--strategy single is one rank, but --nnodes 2 is several. Pass another strategy.",
        ),
        (
            ("-m", "trian"),
            "-m trian: there is no such module; did you mean train?",
        ),
        (
            ("-m", "os.nothing"),
            "-m os.nothing: there is no such module.",
        ),
        (
            ("-m", "train.py"),
            "-m train.py is a path, and -m takes a module's dotted name. Leave out -m, or write "
            "-m train.",
        ),
        (
            ("--no-python", "no-such-program"),
            "there is no program no-such-program. Give its path, or a name on the PATH.",
        ),
        (
            ("--no-python", "./train.py"),
            "./train.py is not executable. Run chmod +x ./train.py, or leave out --no-python.",
        ),
        (("--master-port",), "--master-port needs a value. See relaunch --help."),
    ],
)
def test_one_sentence(launch, argv, sentence):
    assert refused(launch, *argv) == sentence


@pytest.mark.parametrize("place", ["file/run", "/proc/run", "/dev/null/run"])
def test_run_folder_that_cannot_be_written(launch, place):
    (launch.folder / "file").touch()
    sentence = refused(launch, "--run-dir", place, "train.py")
    assert sentence.startswith(f"--run-dir {place} cannot be written (")
    assert sentence.endswith("). Pass another folder.")


def test_taken_port(launch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence = refused(launch, "--master-port", port, "train.py")
    user = pwd.getpwuid(os.getuid()).pw_name
    assert sentence.startswith(
        f"--master-addr 127.0.0.1 --master-port {port} cannot be used: the port is taken by "
    )
    assert f" (pid {os.getpid()}, user {user}). Pass another --master-port" in sentence


def test_address_of_another_machine(launch):
    sentence = refused(launch, "--master-addr", "192.0.2.1", "train.py")
    assert "cannot be used: 192.0.2.1 is no address of this machine." in sentence


def test_name_that_cannot_be_resolved(launch):
    sentence = refused(launch, "--master-addr", "no-such-host.invalid", "train.py")
    assert sentence.startswith("--master-addr no-such-host.invalid cannot be resolved (")


def test_module_beside_the_script_that_shadows_ours(launch):
    (launch.folder / "strategies.py").write_text("mine = 1")
    script = launch.script("from launcher import Run", "uses.py")
    sentence = refused(launch, script)
    assert sentence == (
        'uses.py would import strategies.py instead of relaunch\'s own package "strategies". '
        "Rename or move it."
    )


def test_own_module_of_that_name_is_left_alone(launch):
    (launch.folder / "strategies.py").write_text("mine = 1")
    launched = launch(launch.script("from strategies import mine\nprint(mine)"))
    assert launched.wait() == 0
    assert launched.stdout == "1\n"


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["--help"], 0), (["--version"], 0), (["--strategy", "x", "y.py"], 2), (["none.py"], 2)],
)
def test_help_and_mistakes_import_no_torch(argv, code):
    source = (
        "import atexit, sys\n"
        "heavy = lambda: {'torch', 'numpy', 'accelerate', 'deepspeed'} & set(sys.modules)\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy())))\n" + MAIN
    )
    done = run_python("-c", source, *argv)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_help_needs_little():
    # What takes the time is counted, and not the time: other work on the machine does not matter.
    source = (
        "import atexit, sys\n"
        "before = set(sys.modules)\n"
        "atexit.register(lambda: print(*sorted(set(sys.modules) - before)))\n" + MAIN
    )
    done = run_python("-c", source, "--help")
    assert done.returncode == 0
    imported = done.stdout.splitlines()[-1].split()
    assert "launcher.command_line.parser" in imported
    assert len(imported) < 140, imported


def run_python(*argv):
    return subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
