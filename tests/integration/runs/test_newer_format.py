"""A checkpoint of a newer relaunch is no damaged one: an older relaunch leaves it alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from checkpointing.format.manifest_json import UnreadVersionError, _spell, parse_manifest

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
from launcher import Run
from linear_run import prepare, train

def main(run):
    job = prepare(run, epochs=int(sys.argv[1]), keep=9, save_every="4 steps")
    for step in job:
        train(job, step)

Run.start(main)
"""


def run(launch: Any, epochs: int) -> Any:
    return launch("--run-dir", "run", launch.script(SCRIPT), str(epochs))


def make_newer(path: Path) -> None:
    """Give a manifest a format version of the future, and the digest that goes with it."""
    content = json.loads(path.read_text()) | {"version": 99, "unheard_of": 1}
    path.write_bytes(_spell(content)[0])


def test_a_newer_format_is_refused_and_stays(launch: Any) -> None:
    assert run(launch, 1).wait(60) == 0
    checkpoints = Path(launch.folder) / "run" / "checkpoints"
    before = sorted(path.name for path in checkpoints.iterdir())
    assert len(before) == 2
    make_newer(checkpoints / before[-1] / "manifest.json")

    again = run(launch, 2)
    assert again.wait(60) == 2
    assert f"{before[-1]}/manifest.json: has format version 99; this relaunch reads" in again.stderr
    assert "or move the folder away to continue from an older checkpoint." in again.stderr
    assert sorted(path.name for path in checkpoints.iterdir()) == before


def test_a_changed_version_in_an_unaltered_digest_is_damage(launch: Any) -> None:
    assert run(launch, 1).wait(60) == 0
    path = next((Path(launch.folder) / "run" / "checkpoints").glob("*8/manifest.json"))
    text = path.read_bytes().replace(b'"version":3', b'"version":7')
    with pytest.raises(ValueError, match="format version 7") as caught:
        parse_manifest(text)
    assert not isinstance(caught.value, UnreadVersionError)
    path.write_bytes(text)
    again = run(launch, 2)
    assert again.wait(60) == 0, again.stderr
    assert "Falling back to step 4." in again.stderr
