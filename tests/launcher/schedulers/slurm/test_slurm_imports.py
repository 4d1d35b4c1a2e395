"""The batch step's process starts without torch and numpy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import launcher

PACKAGE = Path(launcher.__file__).parent / "schedulers" / "slurm"


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_only_the_standard_library_and_our_own(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert all(
                alias.name.partition(".")[0] in sys.stdlib_module_names for alias in node.names
            )
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            assert node.module.partition(".")[0] in sys.stdlib_module_names


def test_nothing_that_they_import_is_heavy_either() -> None:
    names = [f"launcher.schedulers.slurm.{path.stem}" for path in PACKAGE.glob("*.py")]
    code = f"import sys, {', '.join(names)}; print(*{{'torch', 'numpy'}} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == ""
