"""What a run that lost a machine ends with."""

import json

import pytest

from launcher.agent.attempts.node_loss import (
    after_loss_text,
    code_after_loss,
    has_checkpoint,
    without_leader_text,
)


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
        "It is lost. Start the same command again on all nodes; it resumes from the newest "
        "checkpoint."
    )
    assert after_loss_text("It is lost.", continues=False).endswith("no checkpoint so far.")


def test_without_the_leader():
    assert without_leader_text(0, "a", continues=True) == (
        "node 0 (a) is lost: its launcher is gone, or the network to it is cut. The nodes meet "
        "there, so the run ends. Start the same command again; it resumes from the newest "
        "checkpoint. If node 0 does not return, make another node node 0: --node-rank 0 there, "
        "and its address as --master-addr everywhere."
    )
    text = without_leader_text(2, None, continues=False)
    assert text.startswith("node 2 is lost: ")
    assert "so the run ends. Start the same command again; there is no checkpoint so far." in text


def test_only_a_finished_checkpoint_counts(tmp_path):
    assert not has_checkpoint(None)
    assert not has_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "step-00000003.draft").mkdir(parents=True)
    assert not has_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "step-00000003").mkdir()
    assert has_checkpoint(tmp_path)


def test_checkpoints_elsewhere_are_looked_for_there(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "step-00000003").mkdir(parents=True)
    place = tmp_path / "place"
    for text in (str(place), f"file://{place}"):
        assert not has_checkpoint(run, text)
    (run / "run.json").write_text(json.dumps({"checkpoints": str(place)}))
    assert not has_checkpoint(run)
    (place / "checkpoints" / "step-00000003").mkdir(parents=True)
    assert has_checkpoint(run, str(place))
    assert has_checkpoint(run)
    # Where there is no rename, only the manifest makes it one.
    assert not has_checkpoint(run, f"file://{place}")
    (place / "checkpoints" / "step-00000003" / "manifest.json").write_text("{}")
    assert has_checkpoint(run, f"file://{place}")
