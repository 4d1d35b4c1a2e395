"""What a run that lost a machine ends with."""

import os
from types import SimpleNamespace

import pytest

from launcher.continuation import after_loss_text, code_after_loss, has_checkpoint
from launcher.program import Program, ProgramKind


@pytest.mark.parametrize(
    ("code", "continues", "left_with"),
    [
        (143, True, 75),
        (137, True, 75),
        (1, True, 75),
        (0, True, 75),
        (143, False, 1),
        (0, False, 1),
        (75, False, 75),
        (93, True, 93),
        (2, True, 2),
    ],
)
def test_code(code, continues, left_with):
    assert code_after_loss(code, continues=continues) == left_with


def test_text():
    assert after_loss_text("It is lost.", continues=True) == (
        "It is lost. Start the same command again on all nodes; it goes on from the newest "
        "checkpoint."
    )
    assert after_loss_text("It is lost.", continues=False).endswith("no checkpoint so far.")


def plan(run_dir, uses_run=True, kind=ProgramKind.SCRIPT, checkpoints=None):
    program = Program(kind=kind, name="sub/train.py", args=())
    return SimpleNamespace(
        run_dir=run_dir, uses_run=uses_run, program=program, checkpoints=checkpoints
    )


def test_only_a_finished_checkpoint_counts(tmp_path):
    assert not has_checkpoint(plan(tmp_path))
    (tmp_path / "checkpoints" / "step-00000003.draft").mkdir(parents=True)
    assert not has_checkpoint(plan(tmp_path))
    (tmp_path / "checkpoints" / "step-00000003").mkdir()
    assert has_checkpoint(plan(tmp_path))


def test_checkpoints_elsewhere_are_looked_for_there(tmp_path):
    (tmp_path / "run" / "checkpoints" / "step-00000003").mkdir(parents=True)
    place = tmp_path / "place"
    for text in (str(place), f"file://{place}"):
        assert not has_checkpoint(plan(tmp_path / "run", checkpoints=text))
    (place / "checkpoints" / "step-00000003").mkdir(parents=True)
    assert has_checkpoint(plan(tmp_path / "run", checkpoints=str(place)))
    # Where there is no rename, only the manifest makes it one.
    assert not has_checkpoint(plan(tmp_path / "run", checkpoints=f"file://{place}"))
    (place / "checkpoints" / "step-00000003" / "manifest.json").write_text("{}")
    assert has_checkpoint(plan(tmp_path / "run", checkpoints=f"file://{place}"))


def test_without_a_run_dir_it_is_looked_for_where_run_puts_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("runs/train/checkpoints/step-00000003")
    assert has_checkpoint(plan(None))
    assert not has_checkpoint(plan(None, uses_run=False))
    assert not has_checkpoint(plan(None, kind=ProgramKind.MODULE))
