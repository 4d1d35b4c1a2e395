"""Which failures are tried again."""

import json
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
    sentence = "not starting again: it failed before the ranks met, and would again."
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
        COUNT + "from launcher.heartbeat import beat\n"
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
    script = launch.script(
        COUNT + "from launcher.heartbeat import beat\nbeat(count)\nsys.exit(10 + count)"
    )
    launched = launch("--max-restarts", "9", script)
    while "waiting 4 s" not in launched.stderr:
        time.sleep(0.05)
    launched.send(signal.SIGTERM)
    assert launched.wait(timeout_s=3) == 13
