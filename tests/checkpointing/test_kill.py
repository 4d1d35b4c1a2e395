"""A process is killed around every file operation of a save, a deletion and an export."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch

import checkpointing
from checkpointing import NoCheckpointError, export_safetensors

pytestmark = pytest.mark.timeout(300)
ROOT = Path(checkpointing.__file__).parents[1]
DRIVER = Path(__file__).with_name("kill_driver.py")


def run_driver(kit, folder, action):
    """Return one store per kill before an operation, and the same for kills after it.

    The last one of each was not killed.
    """
    done = kit.run_python(DRIVER, folder, action, timeout_s=240)
    assert done.returncode == 0, done.stderr
    return [
        sorted((folder / when).iterdir(), key=lambda path: int(path.name))
        for when in ("before", "after")
    ]


def base_store(kit, tmp_path, *steps):
    store = kit.store_at(tmp_path / "base")
    for step in steps:
        kit.save_state(store, step, kit.sample_state(10 + step))
    return store


@pytest.mark.parametrize(
    ("action", "least"),
    [("save", 20), ("save-0", 15), ("save-1", 8), ("background-0", 10)],
    ids=["one rank", "0", "1", "0 in the background"],
)
def test_a_killed_save_is_complete_or_invisible(kit, tmp_path, action, least):
    base_store(kit, tmp_path, 1)
    for folders in run_driver(kit, tmp_path, action):
        assert len(folders) > least
        seen = []
        for folder in folders:
            store = kit.store_at(folder)
            kit.assert_holds(store, 1, kit.sample_state(11))
            seen.append(store.steps() == [2, 1])
            if seen[-1]:
                kit.assert_holds(store, 2, kit.sample_state(2))
            else:
                assert store.steps() == [1]
            store.sweep()
            kit.save_state(store, 3, kit.sample_state(3))
            kit.assert_holds(store, 3, kit.sample_state(3))
            assert kit.leftovers(folder) == []
            shutil.rmtree(folder)
        # Invisible up to the rename, complete from then on.
        assert seen == sorted(seen)
        assert seen[-1]
        # Rank 1 has nothing to do with the rename: without its shard there is none.
        assert not seen[0]
        assert action != "save-1" or sum(seen) <= 2


@pytest.mark.parametrize("action", ["save", "save-0"], ids=["one rank", "0 of two"])
def test_a_killed_second_save_of_a_step_keeps_the_other_steps(kit, tmp_path, action):
    base = base_store(kit, tmp_path, 1, 2)
    for folders in run_driver(kit, tmp_path, action):
        num_without = 0
        for folder in folders:
            store = kit.store_at(folder)
            kit.assert_holds(store, 1, kit.sample_state(11))
            if 2 in store.steps():
                with store.open(2) as reader:
                    is_new = reader.manifest.token != base.open(2).manifest.token
                kit.assert_holds(store, 2, kit.sample_state(2 if is_new else 12))
            else:
                num_without += 1
            store.sweep()
            kit.save_state(store, 2, kit.sample_state(3))
            kit.assert_holds(store, 2, kit.sample_state(3))
            assert kit.leftovers(folder) == []
        # The documented window: between two renames that follow each other directly.
        assert num_without == 1


def test_a_killed_deletion_leaves_all_or_nothing(kit, tmp_path):
    base_store(kit, tmp_path, 1, 2)
    for folders in run_driver(kit, tmp_path, "delete"):
        for folder in folders:
            store = kit.store_at(folder)
            if 2 in store.steps():
                kit.assert_holds(store, 2, kit.sample_state(12))
            store.sweep()
            kit.assert_holds(store, 1, kit.sample_state(11))
            assert kit.leftovers(folder) == []
        with pytest.raises(NoCheckpointError):
            kit.store_at(folders[-1]).open(2)


def test_a_killed_export_leaves_the_old_file_or_the_new_one(kit, tmp_path):
    store = base_store(kit, tmp_path, 1)
    with store.open(1) as reader:
        export_safetensors(reader, store.folder / "export", metadata={"n": "old"})
    for folders in run_driver(kit, tmp_path, "export"):
        assert len(folders) > 8
        found = []
        for folder in folders:
            with safetensors.safe_open(folder / "export", "pt") as file:
                found.append(file.metadata()["n"])
            assert len(safetensors.torch.load_file(folder / "export")) == 8
            with kit.store_at(folder).open(1) as reader:
                export_safetensors(reader, folder / "export", metadata={})
            assert kit.leftovers(folder) == []
        assert found == sorted(found, reverse=True)
        assert (found[0], found[-1]) == ("old", "new")
