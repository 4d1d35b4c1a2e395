"""Whether C code may have something to do at exit is read from the libraries' own files."""

import _bisect
import subprocess
from pathlib import Path

import pytest

from launcher.workers.exit_handlers import mapped_files, may_have_handlers

KNOWN = frozenset({"/known.so"})
SOURCES = {
    "nothing": ("int f(void) { return 1; }", False),
    "a destructor": ("__attribute__((destructor)) static void f(void) {}", True),
    "atexit": (
        "#include <stdlib.h>\nstatic void g(void) {}\nint f(void) { return atexit(g); }",
        True,
    ),
    "on_exit": (
        "#define _DEFAULT_SOURCE\n#include <stdlib.h>\nstatic void g(int a, void *b) {}\n"
        "int f(void) { return on_exit(g, 0); }",
        True,
    ),
}


@pytest.mark.parametrize(("source", "found"), SOURCES.values(), ids=SOURCES)
def test_a_library_with_an_exit_handler_is_found(tmp_path: Path, source: str, found: bool) -> None:
    library = compiled(tmp_path, source)
    assert may_have_handlers({*KNOWN, str(library)}, KNOWN, {}) is found


def test_the_libraries_of_torch_have_handlers_and_a_plain_extension_has_none() -> None:
    import torch

    core = str(Path(torch.__file__).resolve().parent / "lib" / "libtorch_cpu.so")
    mapped = mapped_files()
    assert {core, _bisect.__file__} <= mapped
    assert may_have_handlers({core}, KNOWN, {})
    assert not may_have_handlers({_bisect.__file__}, KNOWN, {})


@pytest.mark.parametrize(
    ("mapped", "known", "environ", "may"),
    [
        (KNOWN, KNOWN, {}, False),
        (KNOWN, KNOWN, {"LD_PRELOAD": "libprofiler.so"}, True),
        (KNOWN, KNOWN, {"LD_AUDIT": "libaudit.so"}, True),
        (KNOWN, KNOWN, {"LD_PRELOAD": ""}, False),
        (KNOWN, frozenset(), {}, True),
        (frozenset(), KNOWN, {}, True),
        ({*KNOWN, "/dev/nvidiactl"}, KNOWN, {}, True),
        ({*KNOWN, "/nowhere/removed.so (deleted)"}, KNOWN, {}, True),
        ({*KNOWN, __file__}, KNOWN, {}, True),
    ],
)
def test_what_is_unknown_may_have_handlers(
    mapped: frozenset[str], known: frozenset[str], environ: dict[str, str], may: bool
) -> None:
    assert may_have_handlers(mapped, known, environ) is may


def test_libraries_and_devices_are_read_from_the_map(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 00000000 08:01 12   /lib/a b.so\n"
        "7f01-7f02 r--p 00000000 08:01 12   /lib/data.bin\n"
        "7f02-7f03 rw-s 00000000 00:05 13   /dev/nvidia0\n"
        "7f03-7f04 rw-s 00000000 00:05 13   /dev/shm/torch_1\n"
        "7f04-7f05 r-xp 00000000 00:00 0    [vdso]\n"
        "7f05-7f06 rw-p 00000000 00:00 0 \n"
    )
    assert mapped_files(str(maps)) == {"/lib/a b.so", "/dev/nvidia0"}
    assert mapped_files(str(tmp_path / "none")) == frozenset()


def compiled(folder: Path, source: str) -> Path:
    """Return a shared library made from C."""
    (folder / "made.c").write_text(source)
    try:
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-o", "made.so", "made.c"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("there is no C compiler here")
    return folder / "made.so"
