"""A script with Hugging Face's Trainer under `relaunch rehearse` and `relaunch verify`."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", minversion="5.23")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SCRIPT = Path(__file__).parents[3] / "scripts" / "examples" / "frameworks" / "trainer_after.py"
OF_ONE = ("--nproc-per-node", "1")


def rehearse(launch: Any, *words: str) -> Any:
    folder = str(launch.folder / "rehearsal")
    return launch("rehearse", "--rehearsal-dir", folder, "--timeout", "400", *OF_ONE, *words)


def test_its_weights_are_those_of_an_undisturbed_run(launch: Any) -> None:
    faults = ("--faults", "2", "--only", "kill-launcher", "--only", "notice-launcher")
    launched = rehearse(launch, *faults, str(SCRIPT), "{run_dir}/trainer")
    assert launched.wait(800) == 0, launched.stdout + launched.stderr
    page = (launch.folder / "rehearsal" / "rehearsal.md").read_text()
    assert "2 faults: 2 passed, 0 failed." in page
    assert "and the final checkpoint in the run folder are checked" in page


def test_one_folder_for_all_runs_is_found(launch: Any) -> None:
    place = str(launch.folder / "trainer")
    words = ("--faults", "1", "--only", "kill-launcher", str(SCRIPT), place)
    launched = rehearse(launch, *words)
    assert launched.wait(800) == 0, launched.stdout + launched.stderr
    assert "1 skipped" in launched.stdout
    assert "the script resumed from a checkpoint of another run" in launched.stdout
    again = rehearse(launch, *words)
    assert again.wait(800) == 2, again.stdout + again.stderr
    assert "such as --output_dir {run_dir}/trainer." in again.stderr


def test_its_exit_codes_are_compared(launch: Any) -> None:
    launched = launch(
        "verify", "--timeout", "400", "--ranks", "1,2", str(SCRIPT), "{run_dir}/trainer"
    )
    assert launched.wait(800) == 0, launched.stdout + launched.stderr
    assert "trainer_after.py does not use Run" in launched.stdout
    assert "1 rank(s): 0, 2 rank(s): 0" in launched.stdout
