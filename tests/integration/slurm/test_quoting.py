"""What `relaunch slurm` writes into a batch script, read back through the real sbatch."""

import random
import string
from pathlib import Path
from typing import Any

import pytest

from launcher.commands.slurm.batch_script import BatchScript
from launcher.commands.slurm.sbatch_options import SbatchOptions

pytestmark = pytest.mark.timeout(1200)
ALPHABET = string.punctuation + "  ab0é漢"
CHOSEN = (
    "my job",
    'say "a\\b"',
    "it's #1",
    "\\",
    '"',
    "'",
    " a ",
    "#",
    "$(x) `y` $HOME",
    "\\\\'\"",
)


def values(count: int, seed: int = 7) -> list[str]:
    made = random.Random(seed)
    return ["".join(made.choices(ALPHABET, k=made.randrange(1, 20))) for _ in range(count)]


def test_sbatch_reads_the_values_that_were_given(cluster: Any, tmp_path: Path) -> None:
    """One held job for several values: free text of a name, a comment and paths."""
    left = [*CHOSEN, *values(30)]
    while left:
        name, comment, output, error = (left.pop() if left else "x" for _ in range(4))
        output, error = (text.replace("%", "_").replace("\\", "_") for text in (output, error))
        given = {
            "job-name": name,
            "comment": comment,
            "output": f"/o{output}",
            "error": f"/e{error}",
        }
        options = SbatchOptions(given=(*given.items(), ("hold", None)))
        path = tmp_path / "my job.sh"
        script = BatchScript(name="x", options=options, command=("true",), words=())
        path.write_text(script.text())
        job = cluster.ask("sbatch", "--parsable", str(path))
        shown = cluster.ask("scontrol", "show", "job", job).split("\n")
        named = cluster.ask("squeue", "-h", "-j", job, "-o", "<%j><%k>")
        cluster.ask("scancel", job)
        # A comment is shown with a blank behind it, and squeue fills up to no width.
        assert named == f"<{name}><{comment}>"
        assert f"   StdOut=/o{output}" in shown
        assert f"   StdErr=/e{error}" in shown
