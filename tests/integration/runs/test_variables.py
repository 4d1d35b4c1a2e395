"""Variables of torch in the environment that end a run before its first step."""

from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
from launcher import Run
from linear_run import prepare, train

def main(run):
    given = {}
    if "accelerate" in sys.argv:
        from accelerate import Accelerator
        given = {"accelerator": Accelerator(cpu=True)}
    job = prepare(run, epochs=1, **given)
    for step in job:
        train(job, step)

Run.start(main)
"""


@pytest.mark.parametrize("num_ranks", ["1", "2"])
def test_an_interface_that_is_not_there(launch: Any, num_ranks: str) -> None:
    environ = {"GLOO_SOCKET_IFNAME": "nope0"}
    launched = launch("--nproc-per-node", num_ranks, launch.script(SCRIPT), env=environ)
    assert launched.wait(60) == 2
    assert "GLOO_SOCKET_IFNAME=nope0: gloo finds no address of such a" in launched.stderr
    assert "Traceback" not in launched.stderr


@pytest.mark.parametrize("strategy", ["ddp", "accelerate"])
def test_a_debug_level_that_is_not_supported(launch: Any, strategy: str) -> None:
    environ = {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    # Cold: torch reads the variable where it is imported.
    words = (
        "--cold",
        "--nproc-per-node",
        "2",
        "--strategy",
        strategy,
        launch.script(SCRIPT),
        strategy,
    )
    launched = launch(*words, env=environ)
    assert launched.wait(60) == 2
    assert "TORCH_DISTRIBUTED_DEBUG=DETAIL cannot be used with Distributed" in launched.stderr
