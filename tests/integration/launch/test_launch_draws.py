"""What libraries draw for themselves at their import: other numbers in each rank, warm as cold."""

import json

import pytest

pytestmark = pytest.mark.timeout(120)

LIBRARY = """
import random
import numpy as np
DRAWN = {
    "Random": random.Random(), "RandomState": np.random.RandomState(),
    "Generator": np.random.default_rng(), "bits": np.random.Generator(np.random.SFC64()),
}
_late = random.Random()
_late.seed(8)
FIXED = {
    "Random": random.Random(5), "RandomState": np.random.RandomState(5), "late": _late,
    "Generator": np.random.default_rng(5), "long": np.random.default_rng(2**127 + 5),
}
"""

SCRIPT = """
import json, os, random, sys
preloaded = "library" in sys.modules
import numpy
import numpy.random, sympy.core.random, torch
import library
if {fails}:
    torch.distributed.init_process_group("gloo")  # without this it would not be started again
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        print(json.dumps({{"initial": torch.initial_seed()}}), flush=True)
        torch.distributed.barrier()
        sys.exit(3)
print(json.dumps({{
    "rank": os.environ["RANK"], "preloaded": preloaded, "initial": torch.initial_seed(),
    "torch": torch.rand((), dtype=torch.float64).item(), "numpy": numpy.random.rand(),
    "random": random.random(), "sympy": sympy.core.random.rng.random(),
    "order": torch.randperm(2**40 % 1000003)[:5].tolist(),
    "drawn": {{name: one.random() for name, one in library.DRAWN.items()}},
    "fixed": {{name: one.random() for name, one in library.FIXED.items()}},
}}), flush=True)
"""


@pytest.fixture
def started(launch):
    def start(*options, fails=False):
        (launch.folder / "library.py").write_text(LIBRARY)
        launched = launch(*options, launch.script(SCRIPT.format(fails=fails)))
        launched.wait(60)
        assert launched.stderr == "" or fails, launched.stderr
        return [json.loads(line[line.index("{") :]) for line in launched.stdout.splitlines()]

    return start


def drawn(seen):
    names = ("initial", "torch", "numpy", "random", "sympy")
    return [*(seen[name] for name in names), tuple(seen["order"]), *seen["drawn"].values()]


@pytest.mark.parametrize(
    "options",
    [("--cold",), (), ("--preload", "library"), ("--preload", "sympy.core.random,library")],
    ids=["cold", "warm", "preloaded", "both preloaded"],
)
def test_each_rank_has_numbers_of_its_own(started, options):
    seen = started("--nproc-per-node", "3", *options)
    assert len(seen) == 3
    assert {one["preloaded"] for one in seen} == {"library" in "".join(options)}
    for values in zip(*map(drawn, seen), strict=True):
        assert len(set(values)) == 3, values
    assert seen[0]["fixed"] == seen[1]["fixed"] == seen[2]["fixed"] == FIXED


def test_a_restart_has_other_numbers(started):
    seen = started("--nproc-per-node", "2", "--max-restarts", "1", fails=True)
    assert len({one["initial"] for one in seen}) == len(seen) == 4


def fixed():
    library: dict = {}
    exec(LIBRARY, library)
    return {
        k: g.random() if hasattr(g, "random") else g.rand() for k, g in library["FIXED"].items()
    }


FIXED = fixed()
