"""The power goes after every operation of a save by two ranks; the disk keeps what it must."""

import random
from functools import partial

import pytest

from checkpointing import DamagedCheckpointError

WORLD = 2


def save(kit, store, step, seed):
    state = kit.sample_state(seed)
    outcomes = kit.run_ranks(WORLD, lambda ranks: kit.save_state(store, step, state, ranks))
    assert not any(isinstance(outcome, BaseException) for outcome in outcomes), outcomes


def crash_states(kit, disks, tmp_path, step, *, samples=4):
    """Return stores after a power loss at each moment of saving a step besides 1 and 2.

    At each moment: nothing that was not synced, all names of it, and some at random.
    """
    root = tmp_path / "live"
    root.mkdir()
    disk = disks.ModelledDisk(root)
    store = kit.store_at(root, disk)
    for older in (1, 2):
        save(kit, store, older, older)
    rng = random.Random(5)
    folders = []

    def cut():
        chosen = [(disks.nothing_early, "lost"), (disks.everything_early, "lost")]
        for _ in range(samples):
            reached = partial(lambda draw, folder, number: draw.random() < 0.5, rng)
            chosen.append((reached, rng.choice(list(disks.TAILS))))
        for has_reached, tail in chosen:
            folders.append(tmp_path / f"{len(folders)}")
            disks.restore(disk.tree, folders[-1], has_reached, tail)

    disk.after_each = cut
    save(kit, store, step, 3)
    final = folders[-2 - samples :]
    return [kit.store_at(folder) for folder in folders], [kit.store_at(f) for f in final]


@pytest.mark.parametrize("step", [3, 2], ids=["new step", "same step again"])
def test_after_a_power_loss_every_named_checkpoint_is_whole(kit, disks, tmp_path, step):
    stores, at_the_end = crash_states(kit, disks, tmp_path, step)
    assert len(stores) > 150
    for store in stores:
        kit.assert_holds(store, 1, kit.sample_state(1))
        if step == 3:
            kit.assert_holds(store, 2, kit.sample_state(2))
        for found in store.steps():
            assert store.verify(found) == []
        store.sweep()
        assert kit.leftovers(store.folder) == []
    # Once the save has returned it is there for good, however little reached the disk by itself.
    for store in at_the_end:
        kit.assert_holds(store, step, kit.sample_state(3))


def test_the_model_tears_what_was_not_synced(kit, disks, tmp_path):
    """The same moments with a manifest that is never synced: the model must notice."""
    root = tmp_path / "live"
    root.mkdir()

    class Lazy(disks.ModelledDisk):
        def fsync(self, fd):
            if self.path_of[fd].name != "manifest.json":
                super().fsync(fd)

    disk = Lazy(root)
    save(kit, kit.store_at(root, disk), 1, 1)
    disks.restore(disk.tree, tmp_path / "after", disks.nothing_early)
    store = kit.store_at(tmp_path / "after")
    assert store.steps() == [1]
    with pytest.raises(DamagedCheckpointError, match=r"manifest.json"):
        store.open(1)
