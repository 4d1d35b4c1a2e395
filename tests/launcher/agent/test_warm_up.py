"""What the warm server imports once for all ranks."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.agent.launch import will_import_compiler
from launcher.plan.launch_plan import make_plan
from launcher.plan.machine import Machine
from launcher.plan.options import LaunchOptions, NodeOptions
from launcher.plan.python_command import PythonProgram
from launcher.workers.forkserver import server
from launcher.workers.forkserver.drawn_at_import import DrawnAtImport
from launcher.workers.forkserver.server import Warmth

RUN = "from launcher import Run\nRun.start(main)\n"


@pytest.mark.parametrize(
    ("source", "ranks", "nodes", "imports"),
    [
        (RUN, 2, 1, True),
        (RUN, 1, 2, True),
        (RUN, 1, 1, False),
        (f"os.environ['TORCHDYNAMO_DISABLE'] = '1'\n{RUN}", 2, 1, False),
        ("import torch\n", 2, 1, False),
    ],
)
def test_the_compiler_is_imported_once_where_several_ranks_need_it(
    source: str, ranks: int, nodes: int, imports: bool, tmp_path: Path
) -> None:
    (script := tmp_path / "train.py").write_text(source)
    options = LaunchOptions(
        script=str(script),
        nproc_per_node=ranks,
        nodes=NodeOptions(
            num_min=nodes, num_max=nodes, node_rank=0, master_addr="n0", master_port=29500
        ),
    )
    plan = make_plan(options, Machine(num_gpus=0, num_cpus=2))
    assert will_import_compiler(plan) is imports


@pytest.mark.parametrize("imports_compiler", [False, True])
def test_the_server_imports_it_before_it_forks(
    imports_compiler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[str] = []
    noted = SimpleNamespace(import_module=lambda name, *_: imported.append(name))
    monkeypatch.setattr(server, "importlib", noted)
    warmth = Warmth(
        program=PythonProgram(name="train.py", is_module=False, args=()),
        preload=(),
        uses_run=True,
        imports_compiler=imports_compiler,
        opened=frozenset(),
    )
    server.import_ours(warmth, DrawnAtImport())
    assert ("torch._dynamo" in imported) is imports_compiler
