"""Which failures are tried again."""

import json
import os
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(120)

COUNT = "count = int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"


def attempts(launch, folder="run"):
    lines = (launch.folder / folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "attempt"]


def test_an_import_error_is_shown_once(launch):
    script = launch.script("print('attempt')\nimport no_such_module")
    launched = launch("--max-restarts", "3", "--run-dir", "run", script)
    assert launched.wait() == 1
    assert launched.stdout == "attempt\n"
    assert launched.stderr.count("Traceback") == 1
    sentence = "not restarting: it failed before the ranks met, and would fail again."
    assert launched.said()[-1] == f"relaunch: {sentence}"
    (event,) = attempts(launch)
    assert event["attempt"] == 1
    assert event["error"] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert (event["code"], event["restart"], event["reason"]) == (1, False, sentence)


def test_a_script_that_has_met_is_tried_again(launch):
    script = launch.script(
        COUNT + "import torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "sys.exit(3 if count == 0 else 0)"
    )
    launched = launch("--nproc", "2", "--max-restarts", "1", script)
    assert launched.wait(timeout_s=60) == 0


def test_the_same_failure_at_the_same_step_ends_it(launch):
    script = launch.script(
        COUNT + "from launcher import beat\n"
        "beat(7)\n"
        "raise ValueError(f'bad sample, attempt {count}, {id(beat):#x}')"
    )
    launched = launch("--max-restarts", "5", "--run-dir", "run", script)
    assert launched.wait() == 1
    assert launched.said()[-1].endswith("it failed twice after step 7 with the same error.")
    assert [(event["step"], event["restart"]) for event in attempts(launch)] == [
        (7, True),
        (7, False),
    ]


def test_a_warning_ends_the_wait_for_the_next_attempt(launch):
    script = launch.script(COUNT + "from launcher import beat\nbeat(count)\nsys.exit(10 + count)")
    launched = launch("--max-restarts", "9", script)
    while "waiting 4 s" not in launched.stderr:
        time.sleep(0.05)
    launched.send(signal.SIGTERM)
    assert launched.wait(timeout_s=3) == 75


def test_a_restart_waits_until_the_gpus_have_released_their_memory(launch):
    """nvidia-smi is a stub: 100 MiB before the ranks, and released at the third look after them."""
    stub = launch.folder / "bin" / "nvidia-smi"
    stub.parent.mkdir()
    stub.write_text(
        "#!/bin/sh\n"
        f"cd {launch.folder}; echo $* >> looks\n"
        'case "$(wc -l < looks)" in 2|3) echo 0, GPU-a, 8000;; *) echo 0, GPU-a, 100;; esac\n'
    )
    stub.chmod(0o755)
    script = launch.script(
        COUNT + "print(count, len(open('looks').readlines()) if count else 0)\n"
        "from launcher import beat\n"
        "beat(count + 1)\n"
        "sys.exit(3 if count == 0 else 0)"
    )
    path = f"{stub.parent}:{os.environ['PATH']}"
    env = {"PATH": path, "CUDA_VISIBLE_DEVICES": "0"}
    launched = launch("--max-restarts", "1", script, env=env)
    assert launched.wait() == 0, launched.stderr
    assert launched.stdout.splitlines() == ["0 0", "1 4"]
    said = launched.said()
    waits = "waiting until memory is released: GPU 0 holds 8000 MiB (100 MiB before the ranks)."
    number = said.index(f"relaunch: {waits}")
    assert said[number + 1].startswith("relaunch: the memory of the GPUs was released after ")
    assert said[number + 2].startswith("relaunch: starting the ranks again: restart 1 of 1")
    assert set((launch.folder / "looks").read_text().splitlines()) == {
        "--query-gpu=index,uuid,memory.used --format=csv,noheader,nounits"
    }


def test_without_restarts_nobody_asks_for_the_memory_of_the_gpus(launch):
    stub = launch.folder / "nvidia-smi"
    stub.write_text(f"#!/bin/sh\ntouch {launch.folder}/looked\n")
    stub.chmod(0o755)
    env = {"PATH": f"{launch.folder}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "0"}
    assert launch(launch.script("pass"), env=env).wait() == 0
    assert not (launch.folder / "looked").exists()
