"""What happens to a run folder while nobody is in it, and which checkpoint is intact then."""

import json
from pathlib import Path

import pytest

from launcher.commands.rehearse import damage
from launcher.commands.rehearse.disturb import Absent
from launcher.commands.rehearse.evidence import newest_intact
from tests.launcher import checkpoint_kit


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for step in (10, 20):
        checkpoint_kit.save(tmp_path / "checkpoints", step)
    return tmp_path


@pytest.mark.parametrize(
    ("done", "intact"),
    [
        (damage.bit_flipped, 10),
        (damage.manifest_cut, 10),
        (damage.shard_removed, 10),
        (damage.newest_removed, 10),
        (damage.all_removed, 0),
        (damage.leftover_made, 20),
        (damage.lock_left, 20),
    ],
)
def test_the_newest_intact_checkpoint_is_known(
    done: damage.Damage, intact: int, run_dir: Path
) -> None:
    assert newest_intact(run_dir) == 20
    done(run_dir)
    assert newest_intact(run_dir) == intact


@pytest.mark.parametrize(
    ("name", "done"), [("metrics.jsonl", damage.metrics_cut), ("events.jsonl", damage.events_cut)]
)
def test_the_last_line_is_cut(name: str, done: damage.Damage, tmp_path: Path) -> None:
    (tmp_path / name).write_text("".join(json.dumps({"step": n}) + "\n" for n in (1, 2)))
    done(tmp_path)
    whole, cut = (tmp_path / name).read_text().split("\n")
    assert json.loads(whole) == {"step": 1}
    assert 0 < len(cut) < len(whole)


@pytest.mark.parametrize("done", [damage.bit_flipped, damage.newest_removed, damage.metrics_cut])
def test_where_there_is_nothing_it_cannot_happen(done: damage.Damage, tmp_path: Path) -> None:
    with pytest.raises(Absent):
        done(tmp_path)
