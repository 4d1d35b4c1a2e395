"""Checkpoints in an object store, over fsspec's memory and local back ends."""

import errno
import uuid
from functools import partial
from pathlib import Path

import fsspec
import pytest

from checkpointing import (
    DamagedCheckpointError,
    NoCheckpointError,
    PlaceError,
    SaveFailedError,
    open_folder,
    place_at,
    take_inventory,
)
from checkpointing.storage import object_files


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    if request.param == "file":
        yield f"file://{tmp_path}/bucket/run"
        return
    place = f"memory://{uuid.uuid4().hex}/run"
    yield place
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(place):
        filesystem.rm(place, recursive=True)


@pytest.fixture(params=[object_files.WHOLE_BYTES, 100], ids=["whole", "in parts"])
def part_size(request, monkeypatch):
    monkeypatch.setattr(object_files, "WHOLE_BYTES", request.param)


@pytest.fixture
def store(kit, url):
    return object_store(kit, url)


def object_store(kit, url, files=None):
    return kit.store_at_url(url, files)


def raw(url):
    """The store's objects below a URL, by name, seen past this package."""
    filesystem = fsspec.filesystem(url.partition(":")[0])
    top = filesystem._strip_protocol(url)
    return {path.removeprefix(top + "/"): path for path in filesystem.find(url)}, filesystem


def test_a_checkpoint_is_saved_and_loaded(kit, url, store, part_size):
    state = kit.sample_state(1)
    saved = kit.save_state(store, 7, state)
    assert str(saved.path) == f"{url}/step-00000007"
    kit.assert_holds(store, 7, state)
    kit.assert_holds(object_store(kit, url), 7, state)
    assert store.steps() == [7]
    assert store.verify(7) == []
    with open_folder(saved.path, store.files) as reader:
        assert reader.verify() == []
    objects, filesystem = raw(url)
    sizes = [filesystem.info(path)["size"] for path in objects.values()]
    assert saved.size_bytes == sum(sizes)


def test_two_ranks_as_threads(kit, url, store, part_size):
    state = kit.sample_state(1)
    found = kit.run_ranks(2, lambda talk: kit.save_state(object_store(kit, url), 3, state, talk))
    assert {one.step for one in found} == {3}
    kit.assert_holds(store, 3, state)
    assert len(raw(url)[0]) == 3


def test_a_folder_without_a_manifest_is_no_checkpoint(kit, url, store):
    for step in (1, 2):
        kit.save_state(store, step, kit.sample_state(step))
    objects, filesystem = raw(url)
    filesystem.rm_file(objects["step-00000002/manifest.json"])
    assert store.steps() == [1]
    with pytest.raises(NoCheckpointError, match="its newest steps: 1"):
        store.open(2)
    (name,) = take_inventory(store).leftovers
    assert name.startswith("step-00000002/*-")
    assert store.sweep() == [name]
    assert [name for name in raw(url)[0] if "00000002" in name] == []
    kit.assert_holds(store, 1, kit.sample_state(1))


def test_nothing_there_is_nothing(kit, store):
    assert store.steps() == []
    inventory = take_inventory(store)
    assert (inventory.found, inventory.refused, inventory.leftovers) == ((), (), ())
    with pytest.raises(NoCheckpointError, match="its newest steps: none"):
        store.open(1)
    assert store.sweep() == []
    store.check_writable()


def test_saving_a_step_again_replaces_it(kit, url, store):
    kit.save_state(store, 1, kit.sample_state(1))
    kit.save_state(store, 1, kit.sample_state(2))
    kit.assert_holds(store, 1, kit.sample_state(2))
    assert len(store.sweep()) == 1
    kit.assert_holds(store, 1, kit.sample_state(2))
    assert len(raw(url)[0]) == 3  # the manifest, its shard, the owner


def test_deleting_removes_the_manifest_first(kit, object_kit, url, store):
    for step in (1, 2):
        kit.save_state(store, step, kit.sample_state(step))
    calls = []
    watched = object_kit.Failing(place_at(url), lambda *call: calls.append(call[1:]))
    object_store(kit, url, watched).delete(1)
    removed = [path for name, path in calls if name in ("rm_file", "rm")]
    assert removed[0].endswith("step-00000001/manifest.json")
    assert [name for name in raw(url)[0] if "00000001" in name] == []
    assert store.steps() == [2]
    with pytest.raises(NoCheckpointError):
        store.delete(1)


def test_a_pin_keeps_a_checkpoint(kit, store):
    kit.save_state(store, 1, kit.sample_state())
    store.pin(1)
    store.pin(1)
    store.sweep()
    assert store.is_pinned(1)
    with pytest.raises(SaveFailedError, match="is pinned"):
        store.delete(1)
    kit.assert_holds(store, 1, kit.sample_state())
    store.unpin(1)
    store.delete(1)
    assert store.steps() == []


def test_what_is_set_aside_is_kept_and_no_longer_a_step(kit, url, store):
    for step in (1, 2):
        kit.save_state(store, step, kit.sample_state(step))
    num_objects = len(raw(url)[0])
    aside = store.set_aside(2)
    assert store.steps() == [1]
    assert take_inventory(store).refused == (f"step-00000002/{aside.name}",)
    assert store.sweep() == []
    assert len(raw(url)[0]) == num_objects + 1  # the owner
    kit.save_state(store, 2, kit.sample_state(3))
    kit.assert_holds(store, 2, kit.sample_state(3))
    store.delete(2)
    assert len(raw(url)[0]) == num_objects + 1
    assert store.steps() == [1]


@pytest.mark.parametrize("part", ["shard", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
def test_damage_is_named(kit, url, store, part, harm):
    kit.save_state(store, 1, kit.sample_state())
    objects, filesystem = raw(url)
    name = next(name for name in objects if (part == "manifest.json") == name.endswith(".json"))
    content = bytearray(filesystem.cat_file(objects[name]))
    content[-9] ^= 1
    if harm == "lose":
        filesystem.rm_file(objects[name])
    else:
        filesystem.pipe_file(objects[name], bytes(content if harm == "flip" else content[:-1]))
    if (part, harm) == ("manifest.json", "lose"):
        assert store.steps() == []  # what was never committed looks the same
        return
    (problem,) = store.verify(1)
    assert f"{url}/{name}" in problem
    with pytest.raises(DamagedCheckpointError, match=name):
        kit.assert_holds(store, 1, kit.sample_state())


def test_reading_fetches_ranges_and_little_more(kit, object_kit, url):
    kit.save_state(object_store(kit, url), 1, kit.sample_state())
    wanted_bytes, fetched = 0, []
    files = object_kit.Failing(place_at(url), lambda *call: None)
    files.proxy.fetched = fetched
    with object_store(kit, url, files).open(1) as reader:
        fetched.clear()
        for spec, _ in kit.sample_state():
            reader.read(spec.fqn, spec.key, 0, spec.numel)
            wanted_bytes += spec.size_bytes
        (record,) = reader.manifest.files
    assert sum(fetched) <= record.size_bytes
    assert sum(fetched) - wanted_bytes <= record.size_bytes - wanted_bytes


class ForeignError(Exception):
    """What a back end's own library may raise: no OSError."""


ERRORS = [OSError(errno.EIO, "injected"), ForeignError("injected"), PermissionError("injected")]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_at_any_call_of_a_save_loses_no_checkpoint(
    kit, object_kit, url, part_size, error, when
):
    store = object_store(kit, url)
    kit.save_state(store, 1, kit.sample_state(1))
    failures, num_saved, at = [], 0, 0
    while True:

        def strike(number, name, path, at=at):
            if number == at:
                raise error

        files = object_kit.Failing(place_at(url), **{"before": lambda *call: None, when: strike})
        try:
            kit.save_state(object_store(kit, url, files), 2, kit.sample_state(2))
            num_saved += 1
            kit.assert_holds(store, 2, kit.sample_state(2))
        except SaveFailedError as failure:
            failures.append(str(failure))
        kit.assert_holds(store, 1, kit.sample_state(1))
        if 2 in store.steps():
            kit.assert_holds(store, 2, kit.sample_state(2))
            store.delete(2)
        store.sweep()
        assert len(raw(url)[0]) == 3  # step 1 and the owner
        if files.proxy.num_calls <= at:
            break
        at += 1
    assert len(failures) >= 5
    assert all("step-00000002" in text for text in failures)
    assert all("injected" in text or "Permission denied" in text for text in failures)
    # Every call matters, apart from the manifest's own put, whose answer may be lost.
    assert num_saved <= 3


def num_calls_of(kit, object_kit, url, operation):
    files = object_kit.Failing(place_at(url), lambda *call: None)
    store = object_store(kit, url, files)
    _ = store.steps() if operation == "steps" else store.open(1)
    return files.proxy.num_calls


@pytest.mark.parametrize("operation", ["steps", "open"])
def test_a_store_that_does_not_answer_is_not_an_empty_or_damaged_one(
    kit, object_kit, url, operation
):
    kit.save_state(object_store(kit, url), 1, kit.sample_state())
    at = 0
    while True:

        def strike(number, name, path, at=at):
            if number == at:
                raise ForeignError("no route to the store")

        files = object_kit.Failing(place_at(url), strike)
        store = object_store(kit, url, files)
        action = store.steps if operation == "steps" else partial(store.open, 1)
        if at >= num_calls_of(kit, object_kit, url, operation):
            action()
            break
        with pytest.raises(OSError, match="no route to the store") as caught:
            action()
        assert not isinstance(caught.value, DamagedCheckpointError | NoCheckpointError)
        assert caught.value.errno == errno.EREMOTEIO
        at += 1
    assert at >= 2


def test_the_last_writer_to_come_owns_the_store(kit, url):
    first, second = object_store(kit, url), object_store(kit, url)
    first.sweep()
    kit.save_state(first, 1, kit.sample_state(1))
    second.sweep()
    with pytest.raises(SaveFailedError, match="taken over by another run"):
        kit.save_state(first, 2, kit.sample_state(2))
    with pytest.raises(SaveFailedError, match="taken over by another run"):
        first.sweep()
    kit.save_state(second, 2, kit.sample_state(3))
    second.sweep()
    kit.assert_holds(second, 1, kit.sample_state(1))
    kit.assert_holds(second, 2, kit.sample_state(3))
    assert second.sweep() == []


def test_two_writers_of_one_step_never_mix(kit, url):
    """Neither has taken the store over: the manifest that comes last counts, whole."""
    states = [kit.sample_state(1), kit.sample_state(2)]

    def save(talk):
        kit.save_state(object_store(kit, url), 5, states[talk.rank])

    for _ in range(5):
        kit.run_ranks(2, save)
        store = object_store(kit, url)
        with store.open(5) as reader:
            first = reader.read("scale", "fp32", 0, 1)
        winner = next(state for state in states if kit.bits(state[3][1]) == kit.bits(first))
        kit.assert_holds(store, 5, winner)
        store.sweep()
        assert len(raw(url)[0]) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense://bucket/run", "nonsense"),
        ("memory://", "names no place"),
        ("file://relative/run", "not absolute"),
        ("simplecache::memory://run", None),
        ("memory://a::b", '"::"'),
        ("memory://a/../b", r'"\.\."'),
        ("memory://me:p@ss@host/a", r"no password .* write memory://host/a, .*MEMORY_PASSWORD"),
        ("memory://b/a?sig=x", r"no query: write memory://b/a, and give"),
    ],
)
def test_a_url_that_is_none_is_refused(text, said):
    if said is None:
        assert str(place_at(text).folder) == "simplecache::memory:/run"  # a path, as it was given
        return
    with pytest.raises(PlaceError, match=said) as refused:
        place_at(text)
    assert "p@ss" not in str(refused.value)
    assert "sig=x" not in str(refused.value)


def test_credentials_come_from_the_environment_as_the_refusal_says(monkeypatch):
    from fsspec.config import conf, set_conf_env

    set_conf_env(found := {}, {"FSSPEC_MEMORY_PASSWORD": "geheim"})
    monkeypatch.setitem(conf, "memory", found["memory"])
    files = place_at("memory://me@host/a").files
    assert isinstance(files, object_files.ObjectFiles)
    assert files._filesystem.storage_options["password"] == "geheim"


def test_a_path_is_a_folder(tmp_path):
    place = place_at(str(tmp_path)) / "checkpoints"
    assert place.folder == tmp_path / "checkpoints"
    assert place.files.renames_folders


@pytest.mark.parametrize("text", ["memory://a/b", "file:///tmp/a", "s3://bucket/run"])
def test_a_path_below_a_url_is_that_url_as_text(text):
    from checkpointing.storage.locations import ObjectPath

    path = ObjectPath(text)
    assert str(path) == text
    assert str(path / "x" / "y") == f"{text}/x/y"
    assert str((path / "x").parent) == text
    assert (path / "x").name == "x"


@pytest.mark.timeout(240)
def test_a_save_killed_at_any_call_is_complete_or_invisible(kit, tmp_path):
    base = object_store(kit, f"file://{tmp_path}/base")
    kit.save_state(base, 1, kit.sample_state(1))
    driver = Path(__file__).with_name("object_kill_driver.py")
    done = kit.run_python(driver, tmp_path, timeout_s=200)
    assert done.returncode == 0, done.stderr
    for when in ("before", "after"):
        folders = sorted((tmp_path / when).iterdir(), key=lambda path: int(path.name))
        assert len(folders) > 15
        seen = []
        for folder in folders:
            store = object_store(kit, f"file://{folder}")
            kit.assert_holds(store, 1, kit.sample_state(1))
            seen.append(2 in store.steps())
            if seen[-1]:
                kit.assert_holds(store, 2, kit.sample_state(2))
            store.sweep()
            kit.save_state(store, 3, kit.sample_state(3))
            kit.assert_holds(store, 3, kit.sample_state(3))
            assert len(raw(f"file://{folder}")[0]) == 5 + 2 * seen[-1]
        # Invisible up to the manifest, complete from then on.
        assert seen == sorted(seen)
        assert (seen[0], seen[-1]) == (False, True)
