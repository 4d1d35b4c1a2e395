"""What the package promises about its own imports."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import checkpointing

PACKAGE = Path(checkpointing.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TORCH_FREE = (
    "background.copy_progress background.writer background.writer_process errors "
    "exporting.plan format.gc_pause format.json_fields format.manifest format.manifest_json "
    "format.model_match format.names format.ranges format.shard_header format.strict_json "
    "format.tensor_spec reading.reader reading.shard_reader reading.verify "
    "saving.collective_outcome saving.communicator saving.shard_report saving.snapshot "
    "storage.atomic_write storage.block_writer storage.commit_by_manifest "
    "storage.commit_by_rename storage.commit_protocol storage.local_files storage.locations "
    "storage.object_files storage.small_files store.diff store.inventory store.retention "
    "store.store"
)
NO_DISK = {
    "writer": {"read"},
    "copy_progress": {"close", "getppid", "pipe", "read", "write"},
    "staging": {"close", "ftruncate", "memfd_create", "posix_fallocate"},
    "writer_process": {"getppid"},
}
"""What touches pipes and memory without a name, by module."""

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "safetensors"):
            raise ImportError(f"{name} must not be imported here")
sys.meta_path.insert(0, Block())
"""


def module_id(path):
    return str(path.relative_to(PACKAGE))


def run_without_torch(code, *args):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *args],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "", node.level)


def test_all_is_sorted_complete_and_loadable():
    assert set(checkpointing.__all__) == set(checkpointing._MODULE_OF)
    for name in checkpointing.__all__:
        assert getattr(checkpointing, name) is not None
    typed = [
        node
        for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom) and node.level == 1
    ]
    from_types = {alias.name: node.module for node in typed for alias in node.names}
    assert from_types == checkpointing._MODULE_OF


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = checkpointing.nothing


def test_listing_and_verifying_need_no_torch(kit, tmp_path):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state())
    kit.save_state(store, 2, kit.sample_state())
    shard = store.path(2) / "r00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    done = run_without_torch(
        "from pathlib import Path\n"
        "from checkpointing import CheckpointStore, stripe, steps_to_delete, require_match\n"
        "store = CheckpointStore(Path(sys.argv[1]))\n"
        "with store.open(1) as reader:\n"
        "    print(store.steps(), reader.verify(), len(store.verify(2)))\n"
        "    print(len(reader.manifest.specs()))\n"
        "assert 'torch' not in sys.modules\n",
        str(tmp_path),
    )
    assert done.stdout.splitlines() == ["[2, 1] [] 1", "9"], done.stderr


def test_the_modules_that_need_no_torch_import_none():
    names = TORCH_FREE.split()
    done = run_without_torch(f"for name in {names}: __import__('checkpointing.' + name)\n")
    assert done.returncode == 0, done.stderr


def test_the_block_on_torch_works():
    done = run_without_torch("import checkpointing.format.fragment")
    assert "must not be imported" in done.stderr


FORBIDDEN = {
    *(("torch", name) for name in ("load", "save")),
    *(("torch.serialization", name) for name in ("load", "save")),
    *(("np", name) for name in ("load", "save", "frompyfunc")),
    *(("numpy", name) for name in ("load", "save")),
    *(("builtins", name) for name in ("eval", "exec", "compile", "__import__")),
    *(("os", name) for name in ("system", "popen")),
}
RUNS_CODE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code"}


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_nothing_that_runs_what_it_reads_and_no_import_upwards(path):
    for name, level in imported_by(path):
        top = name.split(".")[0]
        assert top not in RUNS_CODE
        # It splits a stream into opcodes and carries none of them out.
        assert top != "pickletools" or path.stem == "plain_pickle"
        assert top not in {"launcher", "strategies"}
        assert top != "checkpointing", "imports inside the package are relative"
        assert level <= len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "__import__"}
        if isinstance(node, ast.Attribute):
            assert (ast.unparse(node.value), node.attr) not in FORBIDDEN
        if isinstance(node, ast.ImportFrom):
            assert not {(node.module, alias.name) for alias in node.names} & FORBIDDEN
        if isinstance(node, ast.keyword):
            assert node.arg not in {"allow_pickle", "weights_only", "shell"}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "from torch import load",
        "torch.load('x')",
        "torch.serialization.load('x')",
        "eval('1')",
        "exec('1')",
        "__import__('os')",
        "import builtins; builtins.eval('1')",
        "np.load('x')",
        "f('x', allow_pickle=True)",
        "os.system('x')",
        "from launcher import Run",
    ],
)
def test_the_ban_bites(line, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "module.py").write_text(line)
    with pytest.raises(AssertionError):
        test_nothing_that_runs_what_it_reads_and_no_import_upwards(tmp_path / "module.py")


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_only_the_seam_touches_the_disk(path):
    if path.stem == "local_files":
        return
    called = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("os", "shutil")
    }
    assert called <= {"urandom"} | NO_DISK.get(path.stem, set())
    text = path.read_text()
    if path.stem == "object_files":  # the seam to what is no disk
        text = text.replace("_filesystem.open(", "")
    for word in ("read_bytes", "write_bytes", "read_text", "write_text", " open("):
        assert word not in text.replace("def open(", "")


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            length = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
            assert length < 50, node.name
