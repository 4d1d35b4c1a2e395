"""What a script's source says about how it trains."""

from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.plan import program_source
from launcher.plan.program import Program, ProgramKind
from launcher.plan.program_source import imported_in, modules_in, read_source, spawn_line


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import torch, numpy as np", {"torch", "numpy"}),
        ("from transformers import Trainer", {"transformers"}),
        ("import lightning.pytorch as pl", {"lightning"}),
        ("def main():\n    from trl import SFTTrainer", {"trl"}),
        ("from . import beside", set()),
        ("not python at all", set()),
    ],
)
def test_modules(source: str, modules: set[str]) -> None:
    assert modules_in(source) == modules


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import torch.multiprocessing as mp\nmp.spawn(main, nprocs=2)", 2),
        ("import torch.multiprocessing as tmp\n\ntmp.spawn(main)", 3),
        ("import torch\ntorch.multiprocessing.spawn(main)", 2),
        ("from torch.multiprocessing import spawn\nspawn(main)", 2),
        ("from torch.multiprocessing import start_processes as go\ngo(main)", 2),
        ("import multiprocessing as mp\nmp.Process(target=main).start()", None),
        ("def spawn(): pass\nspawn()", None),
        ("pool.spawn(main)", None),
        ("(", None),
    ],
)
def test_the_line_that_spawns(source: str, line: int | None) -> None:
    assert spawn_line(source) == line


@pytest.mark.parametrize(
    ("script", "beside", "names"),
    [
        ("import torch", "", False),
        ("os.environ['TORCHINDUCTOR_MAX_AUTOTUNE'] = '1'", "", True),
        ("os.environ.setdefault('TORCH_LOGS', '+dynamo')", "", True),
        ("import settings", "os.environ.update(TORCHDYNAMO_DISABLE='1')", True),
        ("import other", "os.environ.update(TORCHDYNAMO_DISABLE='1')", False),
        ("import settings  # for PYTORCH and TORCH", "x = 1", False),
    ],
)
def test_a_variable_of_torch(script: str, beside: str, names: bool, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "settings.py").write_text(beside)
    assert read_source(script_in(tmp_path)).names_torch_variable() is names


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        ("Run.start(main)", True),
        ("import beside\nbeside.train()", True),
        ("from beside import train\ntrain()", True),
        ("train()", False),
        ("import missing", False),
    ],
)
def test_who_calls_run_start(script: str, calls: bool, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "beside.py").write_text("def train(): Run.start(main)")
    assert read_source(script_in(tmp_path)).calls_run_start() is calls


@pytest.mark.parametrize(
    ("script", "decides"),
    [
        ("from launcher import Run\nRun.start(main)", False),
        ("from launcher.bridges import RelaunchCallback\ntrain()", True),
        ("from launcher import Resumable\ntrain()", True),
        ("import torch\ntrain()", False),  # to which the option is nothing
    ],
)
def test_who_decides_the_strategy(script: str, decides: bool, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(script)
    assert read_source(script_in(tmp_path)).decides_strategy() is decides


@pytest.mark.parametrize(
    ("source", "package", "names"),
    [
        ("import torch, mine.net as net", (), {("torch",), ("mine", "net")}),
        ("import os; import mine", (), {("os",), ("mine",)}),
        ("if x: import mine", (), {("mine",)}),
        ("from mine import net, data as d  # both", (), {("mine", "net"), ("mine", "data")}),
        (
            "from mine import (\n    net,  # one\n    data,\n)",
            (),
            {("mine", "net"), ("mine", "data")},
        ),
        ("from mine import \\\n    net", (), {("mine", "net")}),
        ("    from mine.deep import *", (), {("mine", "deep", "*")}),
        ("from . import net", ("mine",), {("mine", "net")}),
        ("from .net import Net", ("mine",), {("mine", "net", "Net")}),
        ("from ..net import Net", ("mine", "deep"), {("mine", "net", "Net")}),
        ("# import mine\nx = 'import mine'", (), set()),
        ("class broken(:\n  import mine", (), {("mine",)}),
        ("", (), set()),
    ],
)
def test_what_is_imported(
    source: str, package: tuple[str, ...], names: set[tuple[str, ...]]
) -> None:
    assert imported_in(source, package) == names


RUN = "from launcher import Run\nRun.start(main)"


@pytest.mark.parametrize(
    ("files", "uses"),
    [
        ({"train.py": RUN}, True),
        ({"train.py": "import beside", "beside.py": RUN}, True),
        ({"train.py": "import other", "beside.py": RUN}, False),
        ({"train.py": "import a", "a.py": "import b", "b.py": "import a, c", "c.py": RUN}, True),
        ({"train.py": "from mine import train", "mine/__init__.py": RUN}, True),
        ({"train.py": "from mine import net", "mine/net.py": RUN}, True),
        ({"train.py": "import mine.net", "mine/__init__.py": "", "mine/net.py": RUN}, True),
        (
            {
                "train.py": "from mine.cli import main",
                "mine/__init__.py": "",
                "mine/cli.py": "from .core.loop import run",
                "mine/core/loop.py": "from ..start import go",
                "mine/start.py": RUN,
            },
            True,
        ),
        ({"train.py": "from mine import net", "mine/net.py": "", "mine/other.py": RUN}, False),
        ({"train.py": "import launcher", "launcher.py": "", "beside.py": ""}, False),
        ({"train.py": "import mine", "mine.py": "# see our launcher\n"}, False),
    ],
)
def test_run_may_be_used_by_a_module_of_ones_own(
    files: dict[str, str], uses: bool, tmp_path: Path
) -> None:
    write(tmp_path, files)
    assert read_source(script_in(tmp_path)).uses_run() is uses


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mine.train", {"mine/train.py": "from .start import go", "mine/start.py": RUN}),
        ("mine", {"mine/__main__.py": "from .start import go", "mine/start.py": RUN}),
        ("mine", {"mine/__main__.py": "from mine.start import go", "mine/start.py": RUN}),
        ("mine.__main__", {"mine/__main__.py": "import beside", "beside.py": RUN}),
        ("train", {"train.py": "import beside", "beside.py": RUN}),
    ],
)
@pytest.mark.parametrize("is_installed", [False, True])
def test_of_a_module(
    name: str,
    files: dict[str, str],
    is_installed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "there", {"mine/__init__.py": "", **files})
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "there"))
    monkeypatch.chdir(elsewhere if is_installed else tmp_path / "there")
    source = read_source(Program(kind=ProgramKind.MODULE, name=name, args=()))
    assert source.uses_run()
    assert len(source.files) >= 2


def test_a_module_of_ones_own_that_would_get_another_package(tmp_path: Path) -> None:
    write(tmp_path, {"train.py": "import beside", "beside.py": RUN, "launcher.py": "x = 1"})
    with pytest.raises(UsageError, match=r"^beside\.py would import .*/launcher\.py instead of"):
        read_source(script_in(tmp_path)).uses_run()


def test_a_large_repository_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_source, "MAX_FILES", 3)
    write(tmp_path, {"train.py": "import a0, a1, a2, a3", **{f"a{i}.py": RUN for i in range(4)}})
    assert len(read_source(script_in(tmp_path)).files) == 3


def test_a_script_beside_our_packages_reads_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_source, "_OWN_ROOT", tmp_path)
    write(tmp_path, {"train.py": RUN, "launcher/__init__.py": "import a", "a.py": ""})
    source = read_source(script_in(tmp_path))
    assert [file.path.name for file in source.files] == ["train.py"]
    assert source.uses_run()


def script_in(folder: Path) -> Program:
    return Program(kind=ProgramKind.SCRIPT, name=str(folder / "train.py"), args=())


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
