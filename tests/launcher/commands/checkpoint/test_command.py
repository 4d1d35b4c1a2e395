"""`relaunch checkpoint ...` on a run folder with real checkpoints."""

import json

import pytest
import torch

from checkpointing import CheckpointStore
from launcher.commands.checkpoint import run
from launcher.commands.checkpoint.target import find_target
from launcher.errors import UsageError


def test_list(kit, folder, answer):
    (folder / "checkpoints" / "refused-step-00000015-0123456789abcdef").mkdir()
    (folder / "checkpoints" / ".tmp-step-00000040-0123456789abcdef").mkdir()
    code, out = answer("list", folder)
    assert code == 0
    header, newest, *_ = out.splitlines()[1:]
    assert header.split() == ["step", "size", "strategy", "ranks", "precision", "best", "state"]
    size = CheckpointStore(folder / "checkpoints").open(30).manifest.size_bytes
    assert newest.split() == (
        f"30 {size / 1024:.3g} KiB zero2 3 bf16 0.25 at {kit.BEST_STEP} opens".split()
    )
    assert "refused-step-00000015-0123456789abcdef: found damaged" in out
    assert ".tmp-step-00000040-0123456789abcdef: a save in flight" in out
    sections = json.loads(answer("list", folder, "--json")[1])
    assert [section["name"] for section in sections] == ["checkpoints", "best"]
    assert [row["step"] for row in sections[0]["checkpoints"]] == [30, 20, 10]
    assert sections[0]["checkpoints"][0]["world_size"] == 3


def test_list_names_what_does_not_open(folder, answer):
    (folder / "checkpoints" / "step-00000020" / "r00000.safetensors").unlink()
    code, out = answer("list", folder)
    assert code == 1
    assert "does not open" in out
    assert "step-00000020/r00000.safetensors: cannot be read" in out


@pytest.mark.parametrize("state", [{"early_stopping": None}, {"data": 3, "early_stopping": {}}])
def test_list_of_a_loop_with_another_state(kit, tmp_path, answer, state):
    kit.save(tmp_path / "checkpoints", 1, **state)
    assert answer("list", tmp_path)[0] == 0


@pytest.mark.parametrize("which", ["", "checkpoints", "best", "checkpoints/step-00000020"])
@pytest.mark.parametrize("command", ["list", "show", "verify"])
def test_every_kind_of_folder(folder, answer, command, which):
    assert answer(command, folder / which)[0] == 0
    json.loads(answer(command, folder / which, "--json")[1])


def test_a_copy_under_another_name(folder, answer):
    copy = (folder / "checkpoints" / "step-00000020").rename(folder / "copy")
    assert answer("verify", copy) == (0, "copy: whole\n")
    assert "step 20" in answer("show", copy)[1]


def test_an_empty_run_folder(tmp_path, answer):
    (tmp_path / "checkpoints").mkdir()
    code, out = answer("list", tmp_path)
    assert (code, out.splitlines()[1]) == (0, "no checkpoint")


def test_show(folder, answer):
    code, out = answer("show", folder, 20)
    assert code == 0
    assert "step 20" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["fc.weight", "fp32", "3", "x", "4", "F32", "48", "B", "1"] in rows
    assert ["scale", "buffer", "scalar", "I64", "8", "B", "1"] in rows
    assert "state.early_stopping.best = 0.25" in out
    assert 'created_by.strategy = "zero2"' in out
    document = json.loads(answer("show", folder, "--json")[1])
    assert document["step"] == 30
    assert document["tensors"][0]["chunks"][0]["end"] == 12


def test_verify_names_file_and_range(kit, folder, answer):
    shard = folder / "checkpoints" / "step-00000020" / "r00000.safetensors"
    kit.damage(shard)
    code, out = answer("verify", folder)
    assert code == 1
    size = shard.stat().st_size
    assert f"{shard}: bytes [0, {size}) do not match their checksum" in out
    assert out.count(": whole") == 4
    assert answer("verify", folder, 30, 10)[0] == 0
    assert answer("verify", shard.parent)[0] == 1
    assert len(json.loads(answer("verify", folder, 20, "--json")[1])) == 2


def test_verify_a_checkpoint_without_its_manifest(folder, answer):
    path = folder / "checkpoints" / "step-00000020"
    (path / "manifest.json").unlink()
    code, out = answer("verify", path)
    assert code == 1
    assert "manifest.json: cannot be read" in out


def test_diff_of_equals(kit, folder, tmp_path, answer):
    again = kit.save(folder / "again", 30)
    code, out = answer("diff", folder, again)
    assert code == 0
    assert "3 tensors: the same names, shapes, dtypes and values" in out


def test_diff(kit, folder, answer):
    nan = torch.arange(12.0).reshape(3, 4)
    nan[1, 1] = float("nan")
    other = kit.save(
        folder / "other", 30, {"fp32/fc.weight": nan, "fp32/new": torch.ones(2)}, lr=0.5
    )
    code, out = answer("diff", folder / "checkpoints" / "step-00000020", other, "--json")
    found = json.loads(out)
    assert code == 1
    assert found["tensors"] == [
        {"name": "fp32/new", "left": None, "right": {"shape": [2], "dtype": "F32"}}
    ]
    assert found["values"] == [
        {"name": "fp32/fc.weight", "num_elements": 1, "largest": "inf"},
        {"name": "exp_avg/fc.weight", "num_elements": 12, "largest": 10.0},
    ]
    assert {one["path"]: (one["left"], one["right"]) for one in found["state"]} == {
        "step": (20, 30),
        "data.epoch": (2, 3),
        "lr": (None, 0.5),
    }
    code, out = answer("diff", folder / "checkpoints" / "step-00000020", other)
    assert code == 1
    assert "fp32/new: not there | (2,) F32" in out
    assert ["exp_avg/fc.weight", "12", "10.0"] in [line.split() for line in out.splitlines()]
    assert "state.lr: null | 0.5" in out


def test_diff_within_a_tolerance(kit, folder, answer):
    near = kit.save(folder / "near", 30, {"exp_avg/fc.weight": torch.full((3, 4), 30.5)})
    assert answer("diff", folder, near)[0] == 1
    assert answer("diff", folder, near, "--tolerance", 0.5)[0] == 0
    assert answer("diff", folder, near, "--no-values")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "COMMAND"),
        ("export F F", "exists already"),
        ("export F X --dtype int4", "choose from bf16, fp16, fp32, fp64"),
        ("export F X --shard-size 0", "below one byte"),
        ("export F X --shard-size 5ib", "is not a size"),
        ("export F X --config nothing", "--config nothing is not a file"),
        ("export F X --step 7", "has no step-00000007"),
        ("lsit F", "invalid choice"),
        ("list F/nothing", "is not a folder"),
        ("list F/elsewhere", "is no run folder"),
        ("show F 99", "has no step-00000099"),
        ("verify F 20 99", "no checkpoint of step 99"),
        ("verify F/best/step-00000020 20", "is one checkpoint already"),
        ("prune F", "--keep"),
        ("prune F --keep 0", "0 is not a number from 1 on"),
        ("pin F/best/step-00000020 20", "pass the run's folder"),
        ("pin F 21", "no step-00000021"),
        ("prune F/best --keep 1", "pass the run's folder"),
        ("prune F/best/step-00000020 --keep 1", "pass the run's folder"),
        ("diff F", "RIGHT"),
        ("diff F F --tolerance -1", "not a number|no distance|expected one argument"),
    ],
)
def test_wrong_usage(folder, words, message):
    (folder / "elsewhere").mkdir()
    with pytest.raises(UsageError, match=message):
        run([word.replace("F", str(folder), 1) for word in words.split()])
    assert find_target(folder).stores


@pytest.mark.parametrize("command", ["list", "show", "verify", "diff"])
def test_no_text_of_a_manifest_moves_the_terminal_or_fakes_a_line(kit, tmp_path, answer, command):
    name = "x\x1b[2J\nfaked\u202e\x9b"
    for step, more in ((1, {}), (2, {f"fp32/{name}": torch.ones(3)})):
        state = {"ending": name, "other": {name: [name, step]}}
        kit.save(tmp_path / "checkpoints", step, more, **state)
    (shard,) = (tmp_path / "checkpoints" / "step-00000002").glob("*.safetensors")
    if command in ("list", "verify"):
        kit.damage(shard)
    folders = [tmp_path / "checkpoints" / f"step-0000000{step}" for step in (1, 2)]
    _, out = answer(command, *(folders if command == "diff" else [tmp_path]))
    assert all(c == "\n" or c.isprintable() for c in out)
    assert "\\x1b" in out or command == "verify"
    assert not any(line.startswith("faked") for line in out.splitlines())
