from checkpointing import open_folder, take_inventory


def test_a_missing_folder_holds_nothing(kit, tmp_path):
    inventory = take_inventory(kit.store_at(tmp_path / "none"))
    assert (inventory.found, inventory.refused, inventory.leftovers) == ((), (), ())


def test_everything_is_named(kit, tmp_path):
    store = kit.store_at(tmp_path)
    for step in (1, 2, 3):
        kit.save_state(store, step, kit.sample_state())
    refused = store.set_aside(1)
    (store.path(3) / "manifest.json").write_text("{}")
    (tmp_path / ".trash-step-00000000-0123456789abcdef").mkdir()
    (tmp_path / "notes").mkdir()
    inventory = take_inventory(store)
    assert [(one.step, one.manifest is None) for one in inventory.found] == [(3, True), (2, False)]
    assert str(store.path(3) / "manifest.json") in inventory.found[0].problem
    assert inventory.refused == (refused.name,)
    assert inventory.leftovers == (".trash-step-00000000-0123456789abcdef",)
    with open_folder(refused) as reader:
        assert reader.manifest.step == 1
        assert reader.verify() == []


def test_what_goes_meanwhile_is_not_there(kit, tmp_path):
    plain = kit.store_at(tmp_path)
    for step in (1, 2):
        kit.save_state(plain, step, kit.sample_state())

    def delete_the_first(number, name):
        if name == "listdir":
            plain.delete(1)
            files.after = lambda number, name: None

    files = kit.WatchedFiles(after=delete_the_first)
    assert [one.step for one in take_inventory(kit.store_at(tmp_path, files)).found] == [2]
