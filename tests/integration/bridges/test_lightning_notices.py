"""Lightning's Trainer on two ranks: a notice at some moment, and the same command again."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from launcher.run_folder.history import read_run

pytest.importorskip("lightning", minversion="2.6")
pytestmark = pytest.mark.timeout(120)
WORKER = str(Path(__file__).parents[1] / "workers" / "lightning_worker.py")
TWO = ("--nproc-per-node", "2")


def told(launched: Any, who: str) -> list[Any]:
    """What one training has printed: (name, step, value), in order."""
    return re.findall(rf"^{who} (\w+) (\d+) (\S+)$", launched.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("notice", "trainer", "left_at"),
    [
        pytest.param([1, "step", 7], {"max_epochs": 2}, 7, id="in-an-epoch"),
        pytest.param([0, "step", 12], {"max_epochs": 2}, 13, id="epoch-end"),
        pytest.param([1, "evaluation", 5], {"max_epochs": 2}, 13, id="validation"),
        pytest.param(
            [0, "step", 5],
            {"max_steps": 9, "accumulate_grad_batches": 2, "val_check_interval": 4},
            3,
            id="accumulated",
        ),
    ],
)
@pytest.mark.slow
def test_all_ranks_leave_together_and_the_same_command_follows_the_same_curve(
    launch: Any, notice: list[Any], trainer: dict[str, Any], left_at: int
) -> None:
    first = launch(*TWO, WORKER, json.dumps({"notice": notice, "trainer": trainer}))
    assert first.wait() == 75, first.stderr
    assert f"saved step {left_at}. The same command resumes the run." in first.stdout
    second = launch(*TWO, WORKER, json.dumps({"plain": True, "trainer": trainer}))
    assert second.wait() == 0, second.stderr
    undisturbed = told(second, "plain")
    assert len(undisturbed) > left_at
    assert told(first, "ours") + told(second, "ours") == undisturbed
    run = read_run(launch.folder / "runs" / "lightning_worker")
    assert [(a.ending, a.code) for a in run.attempts] == [("preempted", 75), ("completed", 0)]


@pytest.mark.slow
def test_float32_state_of_bfloat16_weights_is_not_rounded(launch: Any) -> None:
    given = {"dtype": "bfloat16", "trainer": {"max_epochs": 2}}
    first = launch(*TWO, WORKER, json.dumps({"notice": [1, "step", 7], **given}))
    assert first.wait() == 75, first.stderr
    second = launch(*TWO, WORKER, json.dumps({"plain": True, **given}))
    assert second.wait() == 0, second.stderr
    undisturbed = told(second, "plain")
    assert told(first, "ours") + told(second, "ours") == undisturbed


@pytest.mark.slow
def test_a_loader_that_cannot_resume_is_refused_with_what_to_use(launch: Any) -> None:
    given = {"loader": "DataLoader", "trainer": {"max_epochs": 1}}
    launched = launch(*TWO, WORKER, json.dumps(given))
    assert launched.wait() == 2, launched.stderr
    assert "comes from a DataLoader, which cannot resume at the sample" in launched.stderr
    assert "Use launcher.bridges.ResumableLoader" in launched.stderr


ALONE = """
import pathlib, time
import torch
from lightning import pytorch as pl

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, index):
        time.sleep(0.02)
        pathlib.Path("trains").touch()
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Model(), torch.utils.data.DataLoader(torch.randn(4000, 4), batch_size=1))
"""


@pytest.mark.slow
def test_without_the_callback_the_end_with_0_is_not_taken_for_done(launch: Any) -> None:
    (launch.folder / "train.py").write_text(ALONE)
    launched = launch("--nproc-per-node", "1", "train.py")
    launched.wait_for_files("trains", cwd=launch.folder)
    launched.send(signal.SIGTERM)
    assert launched.wait() == 75, launched.stderr
    assert "handled SIGTERM and exited with 0, but it may not be" in launched.stderr
    assert "callbacks=[RelaunchLightning()] and a ResumableLoader" in launched.stderr
