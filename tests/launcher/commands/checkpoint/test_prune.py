"""`relaunch checkpoint prune` and `pin`: what goes, and what stays and why."""

import json

import pytest


@pytest.fixture
def left(kit, folder):
    """The steps of the checkpoints and of the best ones that are there."""
    return lambda: (kit.steps(folder / "checkpoints"), kit.steps(folder / "best"))


def test_prune_says_what_would_go_and_deletes_nothing(left, folder, answer):
    code, out = answer("prune", folder, "--keep", 1)
    assert code == 0
    assert str(folder / "checkpoints" / "step-00000010") in out
    assert str(folder / "best" / "step-00000010") in out
    assert "add --yes" in out
    assert left() == ([30, 20, 10], [20, 10])


@pytest.mark.parametrize("which", ["", "checkpoints"])
def test_prune_keeps_the_best_that_is_referred_to(kit, left, folder, answer, which):
    answer("prune", folder / which, "--keep", 1, "--yes")
    assert left() == ([30], [kit.BEST_STEP])


def test_a_pinned_checkpoint_outlives_prune_and_is_listed(kit, left, folder, answer):
    answer("pin", folder, 10)
    assert "opens, pinned" in answer("list", folder)[1]
    out = answer("prune", folder, "--keep", 1, "--yes")[1]
    assert "step 10 stays: it is pinned" in out
    # What it refers to as the best stays with it.
    assert left() == ([30, 10], [kit.BEST_STEP])
    answer("pin", folder, 10, "--remove")
    answer("prune", folder, "--keep", 1, "--yes")
    assert kit.steps(folder / "checkpoints") == [30]


def test_prune_keeps_milestones_the_best_ones_and_what_the_run_went_on_from(kit, tmp_path, answer):
    for step in (10, 20, 30, 40, 50, 60):
        value = {10: 0.9, 20: 0.2, 30: 0.8, 40: 0.7, 50: 0.6, 60: 0.5}[step]
        kit.save(tmp_path / "checkpoints", step, evaluation={"value": value, "mode": "max"})
    event = {"time": "2026-01-01T00:00:00+00:00", "event": "start", "step": 30, "resumed": True}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    rules = ("--keep", 1, "--keep-every", 50, "--keep-best", 1)
    kit.save(tmp_path / "best", kit.BEST_STEP)
    code, out = answer("prune", tmp_path, *rules, "--yes", "--json")
    assert code == 0
    assert kit.steps(tmp_path / "checkpoints") == [60, 50, 30, 10]
    (reason,) = json.loads(out)["stays"]
    assert reason == "step 30 stays: the run last resumed from it"


def test_prune_keeps_the_best_of_a_store_alone(kit, tmp_path, answer):
    for step in (10, 20, 30):
        kit.save(tmp_path / "mine", step)
    out = answer("prune", tmp_path / "mine", "--keep", 1, "--yes")[1]
    assert kit.steps(tmp_path / "mine") == [30, 20]
    assert "step 20 stays: it is the best" in out


def test_prune_counts_no_damaged_checkpoint_and_leaves_it(kit, folder, answer):
    (folder / "checkpoints" / "step-00000030" / "manifest.json").write_text("{}")
    out = answer("prune", folder, "--keep", 1, "--yes")[1]
    assert kit.steps(folder / "checkpoints") == [30, 20]
    assert kit.steps(folder / "best") == [20, 10], "what the damaged one refers to is unknown"
    assert "step 30 stays: it does not open" in out
