"""`relaunch rehearse` on whole scripts: what it finds, and what it leaves."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.commands.rehearse.kinds import KINDS
from launcher.commands.rehearse.network import NoNetworkError, ip, network_of

pytestmark = pytest.mark.timeout(900)
SHORT = ("--steps", "12", "--save-every", "3", "--pace", "0.03")

FORGETFUL = """
import torch, torch.nn.functional as F
from launcher import Run

seen = 0  # not in the checkpoint


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)

    def forward(self, x):
        return self.linear(x)


def main(run):
    global seen
    job = run.prepare(
        model=Net,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        train=torch.utils.data.TensorDataset(torch.linspace(0, 1, 64).view(16, 4), torch.ones(16)),
        global_batch=4, micro_batch=2, epochs=20, track=[],
    )
    for step in job:
        seen += 1
        for x, y in step:
            loss = F.mse_loss(job.model(x)[:, 0], y, reduction="sum") * (1 + seen)
            step.backward(loss, count=len(y))


if __name__ == "__main__":
    Run.start(main)
"""
PLAIN = """
time.sleep(0.3)
(pathlib.Path("ran") / str(os.getpid())).touch()
time.sleep(2.0)
"""


def page_of(folder: Path) -> str:
    return (folder / "rehearsal" / "rehearsal.md").read_text()


def rehearse(launch: Any, *words: str) -> Any:
    folder = str(launch.folder / "rehearsal")
    return launch("rehearse", "--rehearsal-dir", folder, *words)


def test_a_kill_and_a_flipped_bit_change_nothing(launch: Any, small: str) -> None:
    only = ("--only", "kill-launcher", "--only", "flip-bit", "--faults", "2")
    launched = rehearse(launch, *only, *SHORT, small)
    assert launched.wait(600) == 0, launched.stdout + launched.stderr
    page = page_of(launch.folder)
    assert "2 faults: 2 passed, 0 failed." in page
    assert (launch.folder / "rehearsal" / "rehearsal.svg").read_text().count("<line") == 2
    assert not list((launch.folder / "rehearsal").glob("fault-*")), "what went right is removed"


@pytest.mark.slow
def test_what_a_script_forgets_is_found(launch: Any) -> None:
    script = launch.folder / "forgetful.py"
    script.write_text(FORGETFUL)
    launched = rehearse(launch, "--only", "notice-launcher", "--faults", "1", *SHORT, str(script))
    assert launched.wait(600) == 1, launched.stdout + launched.stderr
    assert "the runs differ from the first step after the resume" in page_of(launch.folder)
    assert list((launch.folder / "rehearsal").glob("fault-001-*")), "what went wrong is kept"


@pytest.mark.slow
def test_a_script_without_run(launch: Any) -> None:
    (launch.folder / "ran").mkdir()
    script = launch.script(PLAIN)
    launched = rehearse(launch, "--faults", "4", script)
    assert launched.wait(600) == 0, launched.stdout + launched.stderr
    assert "does not use `Run`" in page_of(launch.folder)


@pytest.mark.slow
def test_a_run_comes_through_every_kind_of_fault(launch: Any, small: str) -> None:
    count = sum(not kind.needs_nodes for kind in KINDS.values())
    faults = ("--faults", str(count), "--steps", "30", "--save-every", "5")
    launched = rehearse(launch, *faults, small, "--workers", "2")
    assert launched.wait(850) == 0, launched.stdout + launched.stderr


def hosts() -> set[str]:
    """The network namespaces of this machine; the test is skipped where none can be made."""
    try:
        with network_of(1):
            pass
    except NoNetworkError as error:
        pytest.skip(f"no network namespaces here: {error}")
    return set(ip("netns", "list").split())


@pytest.mark.slow
def test_two_nodes_come_through_a_kill_and_a_cut(launch: Any, small: str) -> None:
    before = hosts()
    kinds = [kind.name for kind in KINDS.values() if kind.needs_nodes]
    only = [word for kind in kinds for word in ("--only", kind)]
    words = ("--nnodes", "2", "--faults", str(len(kinds)), *only, *SHORT, small)
    launched = rehearse(launch, *words)
    assert launched.wait(600) == 0, launched.stdout + launched.stderr
    assert f"{len(kinds)} faults: {len(kinds)} passed, 0 failed." in page_of(launch.folder)
    assert set(ip("netns", "list").split()) == before


@pytest.mark.slow
def test_ctrl_c_leaves_no_hosts(launch: Any, small: str) -> None:
    before = hosts()
    launched = rehearse(launch, "--nnodes", "2", *SHORT, small)
    end = time.monotonic() + 60
    while set(ip("netns", "list").split()) == before:
        assert time.monotonic() < end, launched.stdout + launched.stderr
        time.sleep(0.05)
    launched.send(signal.SIGINT)
    assert launched.wait(60) == 130, launched.stdout + launched.stderr
    assert set(ip("netns", "list").split()) == before
