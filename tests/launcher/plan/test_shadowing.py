"""Which modules beside a script are in the way."""

import pytest

from launcher.plan.shadowing import origin_of_packages, use_of_packages


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import os", {}),
        ("import launcher", {"launcher": set()}),
        ("import launcher\nlauncher.Run.start(1)", {"launcher": {"Run"}}),
        ("from launcher import Run, Job", {"launcher": {"Run", "Job"}}),
        ("from launcher.signals import PreemptionFlag", {"launcher": {"signals"}}),
        ("import strategies.parallel.registry as t", {"strategies": {"parallel"}}),
        ("def f():\n    from checkpointing import x", {"checkpointing": {"x"}}),
        ("from .launcher import Run", {}),
        ("from . import launcher", {}),
        ("import launchers, mylauncher", {}),
        ("import (", {}),
        ("\0", {}),
    ],
)
def test_use(source, names):
    assert use_of_packages(source).names == names


RUN = "from launcher import Run"


@pytest.mark.parametrize(
    ("files", "source", "ours", "shadow"),
    [
        ({}, RUN, {"launcher"}, None),
        ({}, "import os", set(), None),
        ({"launcher.py": "x = 1"}, "import os", set(), None),
        ({"launcher.py": "x = 1"}, RUN, set(), "launcher.py"),
        ({"launcher/__init__.py": ""}, RUN, set(), "launcher/__init__.py"),
        ({"launcher/data.txt": ""}, RUN, {"launcher"}, None),
        ({"launcher.py": "class Run: pass"}, RUN, set(), None),
        ({"launcher.py": "from mine import Run"}, RUN, set(), None),
        ({"launcher.py": "from mine import *"}, RUN, set(), None),
        ({"launcher.py": "import ("}, RUN, set(), None),
        ({"launcher.py": "go = 1"}, "import launcher\nlauncher.go", set(), None),
        ({"launcher.py": "go = 1"}, "import launcher\nlauncher.Run", set(), "launcher.py"),
        ({"launcher/__init__.py": "", "launcher/a.py": ""}, "import launcher.a", set(), None),
        ({"strategies.py": "mine = 1"}, RUN, {"launcher"}, "strategies.py"),
        ({"strategies.py": "mine = 1"}, "from strategies import mine", set(), None),
        ({"checkpointing.py": ""}, "from strategies import x", {"strategies"}, "checkpointing.py"),
        ({"launcher.py": ""}, "from strategies import x", {"strategies"}, None),
    ],
)
def test_origin(tmp_path, files, source, ours, shadow):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    origin = origin_of_packages(use_of_packages(source), tmp_path, own_root=tmp_path / "ours")
    assert origin.ours == ours
    assert origin.shadow == (None if shadow is None else tmp_path / shadow)


def test_script_beside_our_packages(tmp_path):
    (tmp_path / "launcher.py").write_text("")
    origin = origin_of_packages(use_of_packages(RUN), tmp_path, own_root=tmp_path)
    assert (origin.ours, origin.shadow) == ({"launcher"}, None)
