"""`relaunch plan`: what it tells the script, and what it makes of the answer."""

import argparse
import json
from pathlib import Path

import pytest

from launcher.commands.plan import _environ, _text, build_parser, run
from launcher.contract.environment import RankEnvironment
from launcher.contract.planned_machines import PlannedMachines
from launcher.errors import UsageError
from launcher.training.loop.planning import answer
from strategies.parallel.auto.estimate import Choice
from strategies.parallel.auto.memory_model import ModelSizes

MACHINES = PlannedMachines(
    ranks=512,
    ranks_per_node=8,
    gpu_memory_bytes=80 * 2**30,
    write_bytes_per_s=1e9,
    answer="/tmp/answer.json",
)
SIZES = ModelSizes(
    trainable=1_000_000_000,
    largest_parameter=1,
    frozen_bytes=0,
    buffer_bytes=0,
    optimizer_bytes=8_000_000_000,
    stepping_bytes=0,
    stepping_element_bytes=0,
    largest_block=1,
    root=0,
    compute_bytes=2,
    activation_bytes=1,
    accumulates=True,
    on_host=False,
)


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args([*words, "train.py", "--lr", "1"])


def test_the_script_is_told_of_machines_that_are_not_there() -> None:
    given = parsed("--ranks", "512", "--gpu-memory", "80GiB", "--precision", "bf16")
    inherited = {"RANK": "3", "WORLD_SIZE": "4", "RELAUNCH_STRATEGY": "ddp", "HOME": "/root"}
    told = _environ(inherited, given, MACHINES, Path("/tmp/run"))
    seen = RankEnvironment.from_environ(told)
    assert (seen.planned, seen.world_size, seen.run.strategy) == (MACHINES, 1, None)
    assert (seen.run.precision, seen.run.run_dir) == ("bf16", Path("/tmp/run"))
    assert told["HOME"] == "/root"
    assert told["CUDA_VISIBLE_DEVICES"] == ""
    assert given.arguments == ["--lr", "1"]
    exact = parsed("--ranks", "8", "--gpu-memory", "80GiB", "--exact", "--hybrid-shard")
    asked = RankEnvironment.from_environ(_environ({}, exact, MACHINES, Path("/tmp/run"))).run
    assert (asked.exact, asked.hybrid_shard) == (True, True)


def test_what_is_told_of_a_save() -> None:
    """12 GB in all, by 64 nodes that write 1 GB/s each."""
    found = answer(MACHINES, Choice(strategy="fsdp", reason="it fits", table="table"), SIZES)
    assert found["save"]["size_bytes"] == 12_000_000_000
    assert found["save"]["rank_bytes"] == 12_000_000_000 // 512
    assert found["save"]["seconds"] == pytest.approx(12 / 64)
    text = _text(json.loads(json.dumps(found)))
    assert "on 512 ranks, 8 a node, with 80 GiB each" in text
    assert "fsdp: it fits" in text
    assert "about 0.2 s" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--ranks", "9", "--gpu-memory", "80GiB", "x.py"), "--ranks 9 are not whole nodes of 8"),
        (("--ranks", "8", "--gpu-memory", "80GiB", "x.py"), "x.py is not a script"),
        (("--ranks", "8", "--gpu-memory", "much", "x.py"), "much is not a size"),
        (("--ranks", "0", "--gpu-memory", "80GiB", "x.py"), "--ranks 0 must be above 0"),
        (("--ranks", "-8", "--gpu-memory", "80GiB", "x.py"), "--ranks -8 must be above 0"),
        (
            ("--ranks", "8", "--ranks-per-node", "0", "--gpu-memory", "80GiB", "x.py"),
            "--ranks-per-node 0 must be above 0",
        ),
        (
            ("--ranks", "8", "--gpu-memory", "80", "x.py"),
            "--gpu-memory of 80 bytes is no GPU's. Give a unit, such as 80GiB",
        ),
        (
            ("--ranks", "8", "--gpu-memory", "80GiB", "--strategy", "fsp", "x.py"),
            "invalid choice: 'fsp'",
        ),
        (("--ranks", "8", "x.py"), "the following arguments are required: --gpu-memory"),
    ],
)
def test_words_that_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(words)


def test_a_script_without_run_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text("print('trained')\n")
    with pytest.raises(UsageError, match=r"ended without run\.prepare"):
        run(["--ranks", "2", "--gpu-memory", "1GiB", str(script)])
    script.write_text("raise SystemExit(7)\n")
    assert run(["--ranks", "2", "--gpu-memory", "1GiB", str(script)]) == 7


SCRIPT = """
import torch
from launcher import Run


def main(run):
    run.prepare(
        model=lambda: torch.nn.Linear(4, 4000),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.1),
        train=torch.utils.data.TensorDataset(torch.zeros(64, 4)),
        global_batch=16,
        micro_batch=1,
        epochs=1,
    )
    raise AssertionError("it was prepared")


Run.start(main)
"""


def test_a_script_tells_what_it_would_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    words = ["--ranks", "16", "--gpu-memory", "8GiB", "--precision", "fp16", "--json", str(script)]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["strategy"], found["parameters"], found["ranks"]) == ("ddp", 20_000, 16)
    assert found["save"]["size_bytes"] == 3 * 4 * 20_000
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]
