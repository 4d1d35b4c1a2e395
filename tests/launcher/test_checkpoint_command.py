"""`relaunch checkpoint ...` on a run folder with real checkpoints."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import launcher
from checkpointing import (
    CheckpointStore,
    Fragment,
    LocalCommunicator,
    Snapshot,
    TensorSpec,
    dtype_name,
    place_at,
    save_checkpoint,
)
from launcher.checkpoint_command import export, run
from launcher.checkpoint_command.target import find_target
from launcher.errors import UsageError

BEST_STEP = 20


def save(folder: Path, step: int, tensors=None, *, best_step=BEST_STEP, **state) -> Path:
    tensors = {
        "fp32/fc.weight": torch.arange(12.0).reshape(3, 4),
        "exp_avg/fc.weight": torch.full((3, 4), float(step)),
        "buffer/scale": torch.tensor(2, dtype=torch.int64),
        **(tensors or {}),
    }
    fragments = []
    for name, tensor in tensors.items():
        key, _, fqn = name.partition("/")
        shape, dtype = tuple(tensor.shape), dtype_name(tensor.dtype)
        spec = TensorSpec(fqn=fqn, key=key, shape=shape, dtype=dtype)
        flat = tensor.reshape(-1)
        fragments.append(Fragment(spec=spec, start=0, end=len(flat), data=flat))
    store = CheckpointStore(folder)
    saved = save_checkpoint(
        store,
        Snapshot(
            step=step,
            specs=[fragment.spec for fragment in fragments],
            fragments=fragments,
            state={
                "step": step,
                "data": {"epoch": step // 10},
                "early_stopping": {"best": 0.25, "best_step": best_step},
                "ending": None,
                "aliases": {"head.weight": "fc.weight"},
                **state,
            },
            created_by={"strategy": "zero2", "world_size": 3, "precision": "bf16"},
        ),
        LocalCommunicator(),
    )
    return saved.path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (10, 20, 30):
        save(tmp_path / "checkpoints", step)
    for step in (10, 20):
        save(tmp_path / "best", step, best_step=step)
    return tmp_path


def damage(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def steps(folder: Path) -> list[int]:
    return CheckpointStore(folder).steps()


def answer(capsys, *words: object) -> tuple[int, str]:
    code = run([str(word) for word in words])
    return code, capsys.readouterr().out


def test_list(folder, capsys):
    (folder / "checkpoints" / "refused-step-00000015-0123456789abcdef").mkdir()
    (folder / "checkpoints" / ".tmp-step-00000040-0123456789abcdef").mkdir()
    code, out = answer(capsys, "list", folder)
    assert code == 0
    header, newest, *_ = out.splitlines()[1:]
    assert header.split() == ["step", "size", "strategy", "ranks", "precision", "best", "state"]
    size = CheckpointStore(folder / "checkpoints").open(30).manifest.size_bytes
    assert newest.split() == (
        f"30 {size / 1024:.3g} KiB zero2 3 bf16 0.25 at {BEST_STEP} opens".split()
    )
    assert "refused-step-00000015-0123456789abcdef: found damaged" in out
    assert ".tmp-step-00000040-0123456789abcdef: a save in flight" in out
    sections = json.loads(answer(capsys, "list", folder, "--json")[1])
    assert [section["name"] for section in sections] == ["checkpoints", "best"]
    assert [row["step"] for row in sections[0]["checkpoints"]] == [30, 20, 10]
    assert sections[0]["checkpoints"][0]["world_size"] == 3


def test_list_names_what_does_not_open(folder, capsys):
    (folder / "checkpoints" / "step-00000020" / "r00000.safetensors").unlink()
    code, out = answer(capsys, "list", folder)
    assert code == 1
    assert "does not open" in out
    assert "step-00000020/r00000.safetensors: cannot be read" in out


@pytest.mark.parametrize("state", [{"early_stopping": None}, {"data": 3, "early_stopping": {}}])
def test_list_of_a_loop_with_another_state(tmp_path, capsys, state):
    save(tmp_path / "checkpoints", 1, **state)
    assert answer(capsys, "list", tmp_path)[0] == 0


@pytest.mark.parametrize("which", ["", "checkpoints", "best", "checkpoints/step-00000020"])
@pytest.mark.parametrize("command", ["list", "show", "verify"])
def test_every_kind_of_folder(folder, capsys, command, which):
    assert answer(capsys, command, folder / which)[0] == 0
    json.loads(answer(capsys, command, folder / which, "--json")[1])


def test_a_copy_under_another_name(folder, capsys):
    copy = (folder / "checkpoints" / "step-00000020").rename(folder / "copy")
    assert answer(capsys, "verify", copy) == (0, "copy: whole\n")
    assert "step 20" in answer(capsys, "show", copy)[1]


def test_an_empty_run_folder(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    code, out = answer(capsys, "list", tmp_path)
    assert (code, out.splitlines()[1]) == (0, "no checkpoint")


def test_show(folder, capsys):
    code, out = answer(capsys, "show", folder, 20)
    assert code == 0
    assert "step 20" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["fc.weight", "fp32", "3", "x", "4", "F32", "48", "B", "1"] in rows
    assert ["scale", "buffer", "scalar", "I64", "8", "B", "1"] in rows
    assert "state.early_stopping.best = 0.25" in out
    assert 'created_by.strategy = "zero2"' in out
    document = json.loads(answer(capsys, "show", folder, "--json")[1])
    assert document["step"] == 30
    assert document["tensors"][0]["chunks"][0]["end"] == 12


def test_verify_names_file_and_range(folder, capsys):
    shard = folder / "checkpoints" / "step-00000020" / "r00000.safetensors"
    damage(shard)
    code, out = answer(capsys, "verify", folder)
    assert code == 1
    size = shard.stat().st_size
    assert f"{shard}: bytes [0, {size}) do not match their checksum" in out
    assert out.count(": whole") == 4
    assert answer(capsys, "verify", folder, 30, 10)[0] == 0
    assert answer(capsys, "verify", shard.parent)[0] == 1
    assert len(json.loads(answer(capsys, "verify", folder, 20, "--json")[1])) == 2


def test_verify_a_checkpoint_without_its_manifest(folder, capsys):
    path = folder / "checkpoints" / "step-00000020"
    (path / "manifest.json").unlink()
    code, out = answer(capsys, "verify", path)
    assert code == 1
    assert "manifest.json: cannot be read" in out


def test_diff_of_equals(folder, tmp_path, capsys):
    again = save(folder / "again", 30)
    code, out = answer(capsys, "diff", folder, again)
    assert code == 0
    assert "3 tensors: the same names, shapes, dtypes and values" in out


def test_diff(folder, capsys):
    nan = torch.arange(12.0).reshape(3, 4)
    nan[1, 1] = float("nan")
    other = save(folder / "other", 30, {"fp32/fc.weight": nan, "fp32/new": torch.ones(2)}, lr=0.5)
    code, out = answer(capsys, "diff", folder / "checkpoints" / "step-00000020", other, "--json")
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
    code, out = answer(capsys, "diff", folder / "checkpoints" / "step-00000020", other)
    assert code == 1
    assert "fp32/new: not there | (2,) F32" in out
    assert ["exp_avg/fc.weight", "12", "10.0"] in [line.split() for line in out.splitlines()]
    assert "state.lr: null | 0.5" in out


def test_diff_within_a_tolerance(folder, capsys):
    near = save(folder / "near", 30, {"exp_avg/fc.weight": torch.full((3, 4), 30.5)})
    assert answer(capsys, "diff", folder, near)[0] == 1
    assert answer(capsys, "diff", folder, near, "--tolerance", 0.5)[0] == 0
    assert answer(capsys, "diff", folder, near, "--no-values")[0] == 0


def test_prune_says_what_would_go_and_deletes_nothing(folder, capsys):
    code, out = answer(capsys, "prune", folder, "--keep", 1)
    assert code == 0
    assert str(folder / "checkpoints" / "step-00000010") in out
    assert str(folder / "best" / "step-00000010") in out
    assert "add --yes" in out
    assert (steps(folder / "checkpoints"), steps(folder / "best")) == ([30, 20, 10], [20, 10])


@pytest.mark.parametrize("which", ["", "checkpoints"])
def test_prune_keeps_the_best_that_is_referred_to(folder, capsys, which):
    answer(capsys, "prune", folder / which, "--keep", 1, "--yes")
    assert (steps(folder / "checkpoints"), steps(folder / "best")) == ([30], [BEST_STEP])


def test_a_pinned_checkpoint_outlives_prune_and_is_listed(folder, capsys):
    answer(capsys, "pin", folder, 10)
    assert "opens, pinned" in answer(capsys, "list", folder)[1]
    out = answer(capsys, "prune", folder, "--keep", 1, "--yes")[1]
    assert "step 10 stays: it is pinned" in out
    # What it refers to as the best stays with it.
    assert (steps(folder / "checkpoints"), steps(folder / "best")) == ([30, 10], [BEST_STEP])
    answer(capsys, "pin", folder, 10, "--remove")
    answer(capsys, "prune", folder, "--keep", 1, "--yes")
    assert steps(folder / "checkpoints") == [30]


def test_prune_keeps_milestones_the_best_ones_and_what_the_run_went_on_from(tmp_path, capsys):
    for step in (10, 20, 30, 40, 50, 60):
        value = {10: 0.9, 20: 0.2, 30: 0.8, 40: 0.7, 50: 0.6, 60: 0.5}[step]
        save(tmp_path / "checkpoints", step, evaluation={"value": value, "mode": "max"})
    event = {"time": "2026-01-01T00:00:00+00:00", "event": "start", "step": 30, "resumed": True}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    rules = ("--keep", 1, "--keep-every", 50, "--keep-best", 1)
    save(tmp_path / "best", BEST_STEP)
    code, out = answer(capsys, "prune", tmp_path, *rules, "--yes", "--json")
    assert code == 0
    assert steps(tmp_path / "checkpoints") == [60, 50, 30, 10]
    (reason,) = json.loads(out)["stays"]
    assert reason == "step 30 stays: the run went on from it the last time"


def test_prune_keeps_the_best_of_a_store_alone(tmp_path, capsys):
    for step in (10, 20, 30):
        save(tmp_path / "mine", step)
    out = answer(capsys, "prune", tmp_path / "mine", "--keep", 1, "--yes")[1]
    assert steps(tmp_path / "mine") == [30, 20]
    assert "step 20 stays: it is the best" in out


def test_prune_counts_no_damaged_checkpoint_and_leaves_it(folder, capsys):
    (folder / "checkpoints" / "step-00000030" / "manifest.json").write_text("{}")
    out = answer(capsys, "prune", folder, "--keep", 1, "--yes")[1]
    assert steps(folder / "checkpoints") == [30, 20]
    assert steps(folder / "best") == [20, 10], "what the damaged one refers to is unknown"
    assert "step 30 stays: it does not open" in out


def test_export(folder, capsys):
    config = folder / "any.json"
    config.write_text("{}")
    out = folder / "hf"
    words = ("--dtype", "bf16", "--shard-size", "25B", "--config", config)
    code, text = answer(capsys, "export", folder, out, *words)
    assert code == 0
    assert text.startswith(f"exported best/step-{BEST_STEP:08d} to {out}:")
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    with safe_open(out / "model-00001-of-00002.safetensors", "pt") as file:
        assert file.get_tensor("fc.weight").dtype == torch.bfloat16
        assert file.metadata()["tied:head.weight"] == "fc.weight"
        assert file.metadata()["step"] == str(BEST_STEP)
    document = json.loads(answer(capsys, "export", folder, out / "b", "--step", 30, "--json")[1])
    assert document["step"] == 30
    assert list(document["size_bytes"]) == ["model.safetensors"]


def test_export_of_damage(folder, capsys):
    damage(folder / "best" / "step-00000020" / "r00000.safetensors")
    assert answer(capsys, "export", folder, folder / "out")[0] == 1
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("7", 7), ("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), ("2k", 2000), ("1TB", 10**12)],
)
def test_sizes(text, size_bytes):
    assert export._size(text) == size_bytes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "COMMAND"),
        ("export F F", "exists already"),
        ("export F X --dtype int4", "choose from bf16, fp16, fp32, fp64"),
        ("export F X --shard-size 0", "below one byte"),
        ("export F X --shard-size 5ib", "is no size"),
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


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "safetensors", "deepspeed", "accelerate"):
            raise ImportError(f"{name} must not be imported here")
sys.meta_path.insert(0, Block())
from launcher.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("list F", 0),
        ("list F --json", 0),
        ("show F", 0),
        ("verify F", 0),
        ("diff F F", 0),
        ("prune F --keep 1 --yes", 0),
        ("list F/nothing", 2),
        ("--help", 0),
    ],
)
def test_without_torch(folder, words, code):
    command = [word.replace("F", str(folder), 1) for word in words.split()]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "checkpoint", *command],
        env={**os.environ, "PYTHONPATH": str(Path(launcher.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert bool(done.stderr) == (code == 2)


def test_a_reader_that_has_seen_enough_is_no_error(folder):
    started = time.monotonic()
    command = [sys.executable, "-c", BLOCKED, "checkpoint", "show", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(Path(launcher.__file__).parents[1])}
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 141
    assert time.monotonic() - started < 30


def upload(folder: Path, url: str) -> None:
    """Put the same checkpoints at a URL, as a run would."""
    place = place_at(url)
    for name in ("checkpoints", "best"):
        for step in steps(folder / name):
            with CheckpointStore(folder / name).open(step) as reader:
                manifest = reader.manifest
                fragments = [
                    Fragment(
                        spec=s, start=0, end=s.numel, data=reader.read(s.fqn, s.key, 0, s.numel)
                    )
                    for s in manifest.specs()
                ]
            save_checkpoint(
                CheckpointStore(place.folder / name, place.files),
                Snapshot(
                    step=step,
                    specs=manifest.specs(),
                    fragments=fragments,
                    state=manifest.state,
                    created_by=manifest.created_by,
                ),
                LocalCommunicator(),
            )


def test_the_commands_take_a_url(folder, tmp_path, capsys):
    url = f"file://{tmp_path}/bucket/run"
    upload(folder, url)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"checkpoints": url}))
    code, listed = answer(capsys, "list", url)
    assert code == 0
    assert f"{url}/checkpoints:" in listed
    # A run folder says where its checkpoints are.
    assert answer(capsys, "list", tmp_path / "run") == (0, listed)
    assert answer(capsys, "verify", url)[0] == 0
    code, shown = answer(capsys, "show", url, 20)
    assert (code, shown.splitlines()[0].partition(" ")[0]) == (
        0,
        f"{url}/checkpoints/step-00000020:",
    )
    assert answer(capsys, "show", f"{url}/checkpoints/step-00000020") == (0, shown)
    assert answer(capsys, "diff", url, folder)[0] == 0
    assert answer(capsys, "export", url, tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert answer(capsys, "pin", f"{url}/checkpoints", 10)[0] == 0
    assert "pinned" in answer(capsys, "list", url)[1]
    code, pruned = answer(capsys, "prune", url, "--keep", "1", "--yes")
    assert code == 0
    assert "step 10 stays: it is pinned" in pruned
    place = place_at(url) / "checkpoints"
    assert CheckpointStore(place.folder, place.files).steps() == [30, 10]
    code, imported = answer(capsys, "import", tmp_path / "out", f"file://{tmp_path}/bucket/new")
    assert code == 0
    assert f"to file://{tmp_path}/bucket/new/checkpoints/step-00000000" in imported


def test_a_url_that_holds_nothing_is_wrong_usage(tmp_path):
    for url in (f"file://{tmp_path}/none", "nonsense://bucket/run"):
        with pytest.raises(UsageError):
            run(["list", url])
