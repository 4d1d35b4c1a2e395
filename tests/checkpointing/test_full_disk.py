"""What a user reads of a full disk: what was needed, and what there is."""

import errno
import os
import re
from pathlib import Path, PurePath
from types import ModuleType

import pytest

from checkpointing import Files, SaveFailedError, export_safetensors


class FullDisk(Files):
    """Fails one operation with an error number; has 3 MiB and few files left."""

    def __init__(self, operation: str, code: int = errno.ENOSPC, files_left: int = 1000) -> None:
        self.operation = operation
        self.code = code
        self.files_left = files_left

    def free(self, at: PurePath | int) -> tuple[int, int | None]:
        os.statvfs(at)  # there is such a place
        return 3 << 20, self.files_left

    def mkdir(self, path: PurePath) -> None:
        self._fail("mkdir", path)
        super().mkdir(path)

    def preallocate(self, fd: int, size_bytes: int) -> None:
        self._fail("preallocate")
        super().preallocate(fd, size_bytes)

    def rename(self, old: PurePath, new: PurePath) -> None:
        self._fail("rename", new)
        super().rename(old, new)

    def _fail(self, operation: str, path: PurePath | None = None) -> None:
        if operation == self.operation:
            name = () if path is None else (str(path),)
            raise OSError(self.code, os.strerror(self.code), *name)


def failed_save(kit: ModuleType, folder: Path, files: Files) -> str:
    """Save from one rank; return the message."""
    kit.save_state(kit.store_at(folder), 1, kit.sample_state(1))
    with pytest.raises(SaveFailedError) as caught:
        kit.save_state(kit.store_at(folder, files), 2, kit.sample_state(2))
    return str(caught.value)


def test_a_file_that_does_not_fit_is_told_with_both_sizes(kit: ModuleType, tmp_path: Path) -> None:
    told = failed_save(kit, tmp_path, FullDisk("preallocate"))
    pattern = r"No space left on device \(\d+\.\d KiB are needed, the disk has 3\.0 MiB free\)"
    assert re.search(pattern, told), told


@pytest.mark.parametrize("operation", ["mkdir", "rename"])
def test_a_disk_without_room_for_a_name_is_told(
    kit: ModuleType, tmp_path: Path, operation: str
) -> None:
    told = failed_save(kit, tmp_path, FullDisk(operation, files_left=0))
    assert "No space left on device (the disk has 3.0 MiB free, 0 more files fit on it)" in told


def test_of_a_quota_the_disk_tells_nothing(kit: ModuleType, tmp_path: Path) -> None:
    told = failed_save(kit, tmp_path, FullDisk("preallocate", errno.EDQUOT))
    assert re.search(r"\(\d+\.\d KiB are needed\)", told), told


def test_another_error_stays_as_it_is(kit: ModuleType, tmp_path: Path) -> None:
    told = failed_save(kit, tmp_path, FullDisk("preallocate", errno.EIO))
    assert "MiB" not in told


def test_an_export_that_does_not_fit(kit: ModuleType, tmp_path: Path) -> None:
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state(1))
    with store.open(1) as reader, pytest.raises(SaveFailedError, match=r"needed, .*3\.0 MiB free"):
        export_safetensors(reader, tmp_path / "out", metadata={}, files=FullDisk("preallocate"))
    assert kit.leftovers(tmp_path) == []


def test_what_a_file_holds_already_counts_as_free(tmp_path: Path) -> None:
    files = Files()
    path = tmp_path / "half"
    fd = files.create(path)
    files.write_all(fd, memoryview(bytes(8 << 20)), 0)
    files.fsync(fd)
    of_descriptor, of_folder = files.free(fd)[0], files.free(tmp_path)[0]
    files.close(fd)
    assert of_descriptor - of_folder > 4 << 20  # others write to the same disk
