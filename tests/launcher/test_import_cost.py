"""The process side starts without torch and numpy; the two standalone programs need nothing."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import launcher

PACKAGE = Path(launcher.__file__).parent
STANDALONE = ("guardian", "exec_worker")
WITHOUT_TORCH = (
    *("launcher.cli", "launcher.command", "launcher.command_line", "launcher.commands"),
    *("launcher.contract", "launcher.plan", "launcher.run_folder", "launcher.schedulers.slurm"),
    *("launcher.workers", "launcher.agent.attempts", "launcher.agent.output"),
    *("checkpointing.reading", "checkpointing.storage", "checkpointing.store"),
)
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{sys.argv[1]}."):
    importlib.import_module(module.name)
print(*sorted({"torch", "numpy"} & set(sys.modules)))
"""


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_a_module_or_folder_is_imported_without_torch(name: str) -> None:
    command = [sys.executable, "-c", IMPORT_ALL, name]
    imported = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert imported.stdout == "\n"


@pytest.mark.parametrize("name", STANDALONE)
def test_standalone_programs_import_only_the_standard_library(name: str) -> None:
    tree = ast.parse((PACKAGE / "workers" / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module in sys.stdlib_module_names or node.module == "collections.abc"


def test_little_is_imported_before_the_handlers_are_installed() -> None:
    """Until then a signal ends the launcher as it ends any process."""
    ours = "sorted(name for name in sys.modules if name.startswith('launcher'))"
    code = f"import sys, launcher.cli; print(*{ours})"
    command = [sys.executable, "-S", "-c", code]
    environ = {"PYTHONPATH": str(PACKAGE.parent)}
    imported = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=True, timeout=60
    )
    assert imported.stdout.split() == [
        "launcher",
        "launcher.cli",
        "launcher.command_line",
        "launcher.command_line.subcommands",
        "launcher.contract",
        "launcher.contract.launcher_signals",
    ]


def test_torchs_internals_are_imported_without_sharded_tensors() -> None:
    """Ranks of any script import them: 0.1 s and 40 MB of each rank would be spent for nothing."""
    code = (
        "import sys, strategies.torch_internals; print('torch.distributed.tensor' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", code]
    imported = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=True, timeout=60
    )
    assert imported.stdout == "False\n"
