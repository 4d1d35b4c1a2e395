"""The user's own objects go with the run, to another number of ranks and another strategy."""

import json

import pytest

pytestmark = pytest.mark.timeout(240)

SCRIPT = """
import json
import torch
from torch.utils.data import TensorDataset
from launcher import Run

class Average:
    def __init__(self):
        self.count, self.sum = 0, torch.zeros(3, 2)
    def state(self):
        return {"count": self.count, "sum": self.sum, "notes": NOTES}
    def restore(self, state):
        self.count, self.sum = state["count"], state["sum"]

def main(run):
    average = Average()
    job = run.prepare(
        model=lambda: torch.nn.Linear(8, 1),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        train=TensorDataset(torch.randn(64, 8), torch.randn(64, 1)), global_batch=8, micro_batch=4,
        epochs=2, save_every="1000 steps", objects={"average": average},
    )
    pathlib.Path(f"begins-{rank}.json").write_text(json.dumps([job.step, average.count]))
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))
        average.count += 1
        average.sum += step.number
        if STOPS and step.number == 6:
            os.kill(os.getpid(), signal.SIGTERM)
    assert average.sum[2, 1] == sum(range(16)), average.sum

Run.start(main)
"""


def start(launch, ranks: int, strategy: str, *, stops: bool, notes: str = "[None, 1.5]"):
    script = launch.script(SCRIPT.replace("STOPS", str(stops)).replace("NOTES", notes))
    options = ("--nproc-per-node", str(ranks), "--strategy", strategy, "--run-dir", "run")
    return launch(*options, script)


def test_an_object_goes_on_under_another_strategy_and_the_report_says_so(launch):
    assert start(launch, 2, "ddp", stops=True).wait(100) == 75
    again = start(launch, 3, "zero2", stops=False)
    assert again.wait(100) == 0, again.stderr
    for rank in range(3):
        step, count = json.loads((launch.folder / f"begins-{rank}.json").read_text())
        assert step == count > 6
    assert "object average" in again.stdout
    lines = (launch.folder / "run" / "events.jsonl").read_text().splitlines()
    (report,) = [e for e in map(json.loads, lines) if e["event"] == "resumed"]
    assert "object average" in report["restored"]
    assert {"strategy: ddp -> zero2", "world_size: 2 -> 3"} <= set(report["changed"])


def test_a_state_of_a_wrong_type_is_refused_before_the_training(launch):
    launched = start(launch, 2, "ddp", stops=False, notes="{1, 2}")
    assert launched.wait(100) == 2
    assert "objects[\"average\"].state()['notes'] is a set" in launched.stderr
