"""A mistake of the script's: 2 before a step is done, then 1 with what is finished saved."""

import pytest

SLOW = pytest.mark.slow

pytestmark = pytest.mark.timeout(180)

SCRIPT = """
import torch
from torch.utils.data import TensorDataset
from launcher import Run
from strategies import metrics

MISTAKE = "{MISTAKE}"

class Picky(TensorDataset):
    batches = 0  # of 4 samples; two a step on each of two ranks

    def __getitems__(self, indices):
        Picky.batches += 1
        if MISTAKE == "sample" and rank == 1 and Picky.batches > 5:
            raise KeyError("no such file")  # the sample
        return [self[index] for index in indices]

def collate(samples):
    if MISTAKE == "collate" and rank == 1 and Picky.batches > 5:
        raise TypeError("cannot be padded")  # the collate
    return torch.utils.data.default_collate(samples)

def measure(model, batch):
    x, y = batch
    out = model(x)
    if MISTAKE == "odd" and rank == 1:
        raise ValueError("of one rank")  # the odd
    if MISTAKE == "measure":
        return {"error": metrics.mse(out, y[:, 0])}  # the measure
    if MISTAKE == "type":
        return {"error": out + "x"}  # the type
    return {"error": (out - y).square()}

def main(run):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 8, generator=generator), torch.randn(64, 1, generator=generator)
    samples = Picky(x, y)
    job = run.prepare(
        model=lambda: torch.nn.Linear(8, 1), collate=collate,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        train=samples, global_batch=16, micro_batch=4, epochs=3, {PREPARE}
    )
    if MISTAKE == "second":
        run.prepare(model=None)  # the second
    for step in job:
        if MISTAKE == "raise" and step.number == 5:
            raise ValueError("of the script")  # the raise
        odd = step.number == 5 and (MISTAKE == "loss" or (MISTAKE == "alone" and run.ranks.rank))
        for x, y in step:
            loss = (job.model(x) - y).square().sum()
            step.backward(loss[None] if odd else loss, count=len(y))  # the loss  # the alone
        if step.number == 5 and MISTAKE == "break":
            break  # the break
        if step.evaluation_due:
            step.evaluate({EVALUATE})
    job.test(samples, {TEST})
    print("DONE", job.device, run.device)

Run.start(main)
"""
TRIED = "validate=samples, measure=measure"
USUAL = {"PREPARE": "", "EVALUATE": "samples, measure", "TEST": "measure"}


def script_of(launch, mistake, **parts):
    text = SCRIPT.replace("{MISTAKE}", mistake)
    for name, part in {**USUAL, **parts}.items():
        text = text.replace("{" + name + "}", part)
    return launch.script(text)


def line_of(launch, mistake):
    """Return where the script makes the mistake."""
    lines = (launch.folder / "train.py").read_text().splitlines()
    (number,) = (n for n, line in enumerate(lines, 1) if f"# the {mistake}" in line)
    return f"train.py:{number}"


@pytest.mark.quick_cases("zero3")
@pytest.mark.parametrize(
    "strategy",
    [
        "single",
        pytest.param("ddp", marks=SLOW),
        pytest.param("fsdp", marks=SLOW),
        pytest.param("zero1", marks=SLOW),
        pytest.param("zero2", marks=SLOW),
        "zero3",
    ],
)
def test_a_mistake_in_measure_costs_no_step(strategy, launch, run):
    count = "1" if strategy == "single" else "2"
    to = ("--nproc-per-node", count, "--strategy", strategy, "--run-dir", str(run.path))
    launched = launch(*to, script_of(launch, "measure"))
    assert launched.wait(80) == 1, launched.stderr
    said = launched.said()[-1]
    assert said.startswith(f"relaunch: error: {line_of(launch, 'measure')}, in step 3: metrics.mse")
    assert "The 4 finished steps are saved" in said
    assert run.steps_on_disk() == [4]
    assert run.last_step() == 0  # the step's record is written with what is measured of it

    again = launch(*to, script_of(launch, "none"))
    assert again.wait(80) == 0, again.stderr
    assert "repeating the evaluation after step 4" in again.stdout
    evaluated = [r["step"] for r in run.records("metrics.jsonl") if "val/error" in r]
    assert evaluated == [4, 8, 12]
    if strategy == "single":
        undisturbed = type(run)(run.path.parent / "other")
        launched = launch("--run-dir", str(undisturbed.path), script_of(launch, "none"))
        assert launched.wait(80) == 0
        assert run.difference(undisturbed) == 0.0


@pytest.mark.quick_cases("fsdp")
@pytest.mark.parametrize(
    "strategy",
    ["single", pytest.param("ddp", marks=SLOW), "fsdp", pytest.param("zero3", marks=SLOW)],
)
def test_what_prepare_knows_is_tried_before_step_0(strategy, launch, run):
    count = "1" if strategy == "single" else "2"
    to = ("--nproc-per-node", count, "--strategy", strategy, "--run-dir", str(run.path))
    launched = launch(*to, script_of(launch, "measure", PREPARE=TRIED, EVALUATE=""))
    assert launched.wait(80) == 2, launched.stderr
    assert f"error: {line_of(launch, 'measure')}: metrics.mse got" in launched.said()[-1]
    assert run.records("metrics.jsonl") == []

    launched = launch(*to, script_of(launch, "none", PREPARE=TRIED, EVALUATE="", TEST=""))
    assert launched.wait(80) == 0, launched.stderr
    assert "DONE cpu cpu" in launched.stdout
    plain = type(run)(run.path.parent / "plain")
    launched = launch(*to[:4], "--run-dir", str(plain.path), script_of(launch, "none"))
    assert launched.wait(80) == 0, launched.stderr
    assert run.difference(plain) == 0.0  # the try has moved nothing


def test_an_exception_out_of_measure_is_shown_and_the_steps_are_saved(launch, run):
    to = ("--nproc-per-node", "2", "--strategy", "fsdp", "--run-dir", str(run.path))
    launched = launch(*to, script_of(launch, "type"))
    assert launched.wait(80) == 1
    assert "TypeError: unsupported operand" in launched.stderr
    said = "\n".join(launched.said())
    assert line_of(launch, "type") in said
    assert "The 4 finished steps are saved" in said
    assert run.steps_on_disk() == [4]


@pytest.mark.parametrize(("mistake", "saved"), [pytest.param("loss", 5, marks=SLOW), ("break", 6)])
def test_the_finished_steps_are_saved(mistake, saved, launch, run):
    to = ("--nproc-per-node", "2", "--strategy", "zero2", "--run-dir", str(run.path))
    launched = launch(*to, script_of(launch, mistake))
    assert launched.wait(80) == 1
    said = launched.said()[-1]
    assert line_of(launch, mistake) in said
    assert f"The {saved} finished steps are saved" in said
    assert run.steps_on_disk() == [saved]
    assert launch(*to, script_of(launch, "none")).wait(80) == 0


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=SLOW)])
def test_one_rank_alone_leaves_soon_and_says_so(strategy, launch, run):
    to = ("--nproc-per-node", "2", "--strategy", strategy, "--run-dir", str(run.path))
    launched = launch(*to, script_of(launch, "alone"))
    assert launched.wait(40) == 1
    said = launched.said()[-1]
    assert line_of(launch, "alone") in said
    assert "could not be saved (not all ranks reached this point)" in said


@pytest.mark.parametrize(
    "strategy", ["zero2", *(pytest.param(one, marks=SLOW) for one in ("single", "ddp", "fsdp"))]
)
def test_an_exception_that_all_ranks_meet_costs_no_finished_step(strategy, launch, run):
    count = "1" if strategy == "single" else "2"
    to = ("--nproc-per-node", count, "--strategy", strategy, "--run-dir", str(run.path))
    launched = launch(*to, script_of(launch, "raise"))
    assert launched.wait(80) == 1
    said = "\n".join(launched.said())
    assert "ValueError: of the script" in said
    assert f"in step 5 ({line_of(launch, 'raise')})" in said
    assert "The 5 finished steps are saved" in said
    assert run.steps_on_disk() == [5]


ALONE = [
    ("sample", "ddp"),
    ("odd", "fsdp"),
    *(
        pytest.param(mistake, strategy, marks=SLOW)
        for mistake in ("sample", "collate", "odd")
        for strategy in ("ddp", "fsdp", "zero2")
        if (mistake, strategy) not in (("sample", "ddp"), ("odd", "fsdp"))
    ),
]


@pytest.mark.parametrize(("mistake", "strategy"), ALONE)
def test_an_exception_of_one_rank_says_what_is_kept(mistake, strategy, launch, run):
    to = ("--nproc-per-node", "2", "--strategy", strategy, "--run-dir", str(run.path))
    launched = launch(*to, script_of(launch, mistake))
    assert launched.wait(60) == 1, launched.stdout
    said = "\n".join(launched.said())
    step = 3 if mistake == "odd" else 2
    assert f"on rank 1, in step {step} ({line_of(launch, mistake)})" in said
    assert "The steps since step 0 could not be saved (not all ranks" in said
    assert "the same command starts from step 0" in said
    assert launched.stderr.count("Traceback") <= 1  # that of the rank that met it
    assert run.steps_on_disk() == []


def test_a_second_model_is_refused_at_the_call(launch, run):
    launched = launch("--run-dir", str(run.path), script_of(launch, "second"))
    assert launched.wait(60) == 2
    said = launched.said()[-1]
    assert f"{line_of(launch, 'second')}: run.prepare was called a second time" in said
    assert "launcher.Resumable(model={...}, optimizer={...})" in said


def test_what_a_call_lacks_is_said(launch, run):
    launched = launch("--run-dir", str(run.path), script_of(launch, "none", TEST=""))
    assert launched.wait(60) == 1
    assert "job.test needs measure: pass it there, or to run.prepare(measure=" in launched.stderr
    assert run.steps_on_disk() == [12]
