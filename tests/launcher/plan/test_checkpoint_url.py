"""`relaunch checkpoint ...` where the checkpoints are at a URL."""

import json
from dataclasses import replace

import fsspec
import pytest

from checkpointing import CheckpointStore, place_at
from launcher.commands.checkpoint import run
from launcher.contract.run_options import RunOptions
from launcher.errors import UsageError
from launcher.plan.launch_plan import make_plan
from launcher.plan.machine import Machine
from launcher.plan.options import LaunchOptions


def test_the_commands_take_a_url(kit, folder, tmp_path, answer):
    url = f"file://{tmp_path}/bucket/run"
    kit.upload(folder, url)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"checkpoints": url}))
    code, listed = answer("list", url)
    assert code == 0
    assert f"{url}/checkpoints:" in listed
    # A run folder says where its checkpoints are.
    assert answer("list", tmp_path / "run") == (0, listed)
    assert answer("verify", url)[0] == 0
    code, shown = answer("show", url, 20)
    assert (code, shown.splitlines()[0].partition(" ")[0]) == (
        0,
        f"{url}/checkpoints/step-00000020:",
    )
    assert answer("show", f"{url}/checkpoints/step-00000020") == (0, shown)
    assert answer("diff", url, folder)[0] == 0
    assert answer("export", url, tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert answer("pin", f"{url}/checkpoints", 10)[0] == 0
    assert "pinned" in answer("list", url)[1]
    code, pruned = answer("prune", url, "--keep", "1", "--yes")
    assert code == 0
    assert "step 10 stays: it is pinned" in pruned
    place = place_at(url) / "checkpoints"
    assert CheckpointStore(place.folder, place.files).steps() == [30, 10]
    code, imported = answer("import", tmp_path / "out", f"file://{tmp_path}/bucket/new")
    assert code == 0
    assert f"to file://{tmp_path}/bucket/new/checkpoints/step-00000000" in imported


def test_a_url_that_holds_nothing_is_wrong_usage(tmp_path):
    for url in (f"file://{tmp_path}/none", "nonsense://bucket/run"):
        with pytest.raises(UsageError):
            run(["list", url])


def test_the_launcher_makes_no_file_system(tmp_path, monkeypatch):
    """Those of S3, Google and Azure begin a thread then, and a launcher with one cannot fork."""

    def refuse(protocol, **options):
        raise AssertionError(f"a file system of {protocol} is made")

    monkeypatch.setattr(fsspec, "filesystem", refuse)
    machine = Machine(num_gpus=0, num_cpus=2)
    script = tmp_path / "train.py"
    script.write_text("from launcher import Run")
    options = LaunchOptions(
        script=str(script),
        run=RunOptions(run_dir=tmp_path / "run", checkpoints="file:///bucket/run"),
    )
    assert make_plan(options, machine).run.checkpoints == "file:///bucket/run"
    with pytest.raises(UsageError, match="--checkpoints nonsense://bucket/run"):
        make_plan(replace(options, run=RunOptions(checkpoints="nonsense://bucket/run")), machine)
