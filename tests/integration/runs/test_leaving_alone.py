"""One rank leaves in the middle: a sentence with rank, step and line, within seconds."""

import pytest

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
import torch
from torch.utils.data import TensorDataset
from launcher import Run

def main(run):
    if rank == 1 and "{WHERE}" == "before":
        return
    samples = TensorDataset(torch.randn(64, 8), torch.randn(64, 1))
    job = run.prepare(
        model=lambda: torch.nn.Linear(8, 1),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        train=samples, global_batch=16, micro_batch=4, epochs=500,
    )
    for step in job:
        odd = rank == 1 and step.number == 5
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))
            if odd and "{WHERE}" == "batch":
                break  # the batch
        if odd and "{WHERE}" == "loop":
            break  # the loop
        if odd and "{WHERE}" == "raise":
            raise ValueError("of the user")  # the raise
        if odd and "{WHERE}" == "return":
            return  # the return
        if odd and "{WHERE}" == "exit":
            sys.exit()  # the exit
        if odd and "{WHERE}" == "busy":
            break  # the busy
    if "{WHERE}" == "busy":
        time.sleep(100)
    job.export("last")

Run.start(main)
"""


@pytest.mark.quick_cases("exit", "loop")
@pytest.mark.parametrize(
    "where",
    [
        "loop",
        "raise",
        "exit",
        "before",
        *(pytest.param(w, marks=pytest.mark.slow) for w in ("batch", "return", "busy")),
    ],
)
def test_the_rank_the_step_and_the_line_are_named(launch, where):
    script = launch.script(SCRIPT.replace("{WHERE}", where))
    launched = launch("--nproc-per-node", "2", "--run-dir", "run", script)
    assert launched.wait(60) == (2 if where == "before" else 1), launched.stdout
    said = "\n".join(launched.said())
    assert "rank 1" in said
    if where == "before":
        assert "rank 1 ended main after main (its first line, step 0)" in said
        assert "rank 0 went on to run.prepare (train.py:" in said
        return
    assert f"train.py:{line_of(launch, script, where)}" in said, said
    assert "step 5" in said
    if where == "raise":
        assert "ValueError: of the user" in said
        assert "could not be saved (not all ranks reached this point)" in said
        # The other rank loses its connection: one line for it, no traceback beside the cause.
        assert launched.stderr.count("Traceback") == 1
        assert "rank 0 lost another rank: " in launched.stderr
    else:
        assert "job.stop()" in said
        assert "Traceback" not in said


ALONE_TOGETHER = """
import torch
import strategies.collectives.process_group as places
from torch.utils.data import TensorDataset
from launcher import Run

if "{CHANNEL}" == "gloo":
    places.meet_neighbours = lambda *place, **limit: None

def main(run):
    samples = TensorDataset(torch.randn(64, 8), torch.randn(64, 1))
    job = run.prepare(
        model=lambda: torch.nn.Linear(8, 1),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        train=samples, global_batch=16, micro_batch=4, epochs=5,
    )
    assert (run.ranks.neighbours is None) == ("{CHANNEL}" == "gloo")
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))
        if step.number == 5 and "{WHAT}" == "lengths":
            samples = TensorDataset(torch.randn(64 + rank, 8))
        if step.number == 5 and (rank == 0 or "{WHAT}" == "lengths"):
            step.evaluate(samples, lambda model, batch: {"loss": model(batch[0]).square()})

Run.start(main)
"""


@pytest.mark.parametrize("channel", ["sockets", "gloo"])
def test_what_all_ranks_must_do_is_done_by_one(launch, channel):
    """The commonest hang: `if rank == 0` before something that all ranks take part in."""
    script = launch.script(ALONE_TOGETHER.replace("{CHANNEL}", channel).replace("{WHAT}", "one"))
    launched = launch("--nproc-per-node", "2", "--strategy", "ddp", "--run-dir", "run", script)
    assert launched.wait(60) == 1, launched.stdout
    said = "\n".join(launched.said())
    assert "All ranks must take the same steps in the same order: no step.evaluate" in said


def test_ranks_that_evaluate_other_data_are_told(launch):
    script = launch.script(
        ALONE_TOGETHER.replace("{CHANNEL}", "sockets").replace("{WHAT}", "lengths")
    )
    launched = launch("--nproc-per-node", "2", "--strategy", "ddp", "--run-dir", "run", script)
    assert launched.wait(60) == 1, launched.stdout
    assert "is in an evaluation with {'name': 'val', 'samples': 6" in launched.stderr


def test_an_exit_on_all_ranks_after_the_loop_is_an_end(launch):
    script = launch.script(
        SCRIPT.replace("epochs=500", "epochs=2").replace('job.export("last")', "sys.exit(0)")
    )
    launched = launch("--nproc-per-node", "2", "--run-dir", "run", script)
    assert launched.wait(60) == 0, launched.stderr


LEAVES_SLOWLY = """
import ctypes
if rank == 1:
    # After Python's own end, which closes the connections: twice sleep(exit code).
    libc = ctypes.CDLL(None)
    libc.on_exit(libc.sleep, None)
    libc.on_exit(libc.sleep, None)
"""


def test_the_cause_is_named_though_it_is_gone_after_those_that_fell_with_it(launch):
    script = launch.script(LEAVES_SLOWLY + SCRIPT.replace("{WHERE}", "loop"))
    launched = launch("--nproc-per-node", "2", "--run-dir", "run", script)
    assert launched.wait(60) == 1, launched.stdout
    said = "\n".join(launched.said())
    assert f"train.py:{line_of(launch, script, 'loop')}" in said, said
    assert "rank 0" not in said


def line_of(launch, script, where):
    """Return the number of the line which the script marks as the place of the odd end."""
    lines = (launch.folder / script).read_text().splitlines()
    (number,) = (n for n, line in enumerate(lines, 1) if line.endswith(f"  # the {where}"))
    return number
