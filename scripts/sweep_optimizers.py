"""Every optimizer of some libraries, under four strategies and resumed: the same, or refused.

Each is trained for six steps on one rank under `single` and on two under `ddp`, `fsdp` and `zero2`,
and resumes from the middle under the same strategy and from another one's checkpoint. All weights
are compared with those of `single`. The parts are in `optimizer_sweep/`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_table import machine
from optimizer_sweep.catalogue import LIBRARIES
from optimizer_sweep.page import is_wrong, table_of, verdict_of

ROOT = Path(__file__).parents[1]
RANK = str(Path(__file__).parent / "optimizer_sweep" / "rank.py")
RANKS = {"one": 1, "two": 2, "back": 1}
AT_ONCE = 10
"""Optimizers of one start of the ranks: what libraries keep for a process is then let go."""
BATCH_S, INSTALL_S = 1200.0, 900.0


def site_with(libraries: Sequence[str], folder: Path) -> Path:
    """Install packages without their dependencies into a folder of their own; return it."""
    packages = [LIBRARIES[name][1] for name in libraries if name != "torch"]
    if packages:
        base = getattr(sys, "_base_executable", sys.executable)
        command = [base, "-m", "pip", "--python", sys.executable, "install", "--quiet"]
        command += ["--no-deps", "--target", str(folder), *packages]
        subprocess.run(command, check=True, timeout=INSTALL_S, stdout=sys.stderr)
    return folder


def environment(site: Path) -> dict[str, str]:
    paths = [str(ROOT), str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def names_in(library: str, site: Path) -> list[str]:
    """Ask a process of its own: what a library does when it is imported stays there."""
    code = (
        "import sys; from optimizer_sweep.catalogue import names_in; "
        "print('\\n'.join(['names:', *names_in(sys.argv[1])]))"
    )
    environ = environment(site)
    environ["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code, library], env=environ, capture_output=True, text=True
    )
    if done.returncode:
        print(f"{library} does not load here: {done.stderr.splitlines()[-1]}", file=sys.stderr)
        return []
    return done.stdout.partition("names:\n")[2].split()


def lines_of(out: Path, phase: str) -> list[dict[str, Any]]:
    """Return what a phase has found so far, also in a run that was broken off."""
    file = out / f"{phase}.jsonl"
    whole = file.read_text().rpartition("\n")[0] if file.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def start(out: Path, phase: str, names: Sequence[str], site: Path) -> None:
    """Start the ranks for some optimizers; start again behind one that ends them.

    Args:
        out: the folder; a line for each optimizer is appended to its file PHASE.jsonl.
        phase: which strategies, of how many ranks.
        names: the optimizers; those that have their line are passed over.
        site: where the libraries are.
    """
    done = {line["optimizer"] for line in lines_of(out, phase)}
    left = [name for name in names if name not in done]
    while left:
        command = [sys.executable, "-c", "from launcher.cli import main; raise SystemExit(main())"]
        command += ["--nproc-per-node", str(RANKS[phase]), RANK, str(out), phase, *left]
        try:
            ranks = subprocess.run(
                command,
                env=environment(site),
                cwd=out,
                capture_output=True,
                text=True,
                timeout=BATCH_S,
            )
            ended = f"the ranks ended with {ranks.returncode}: {ranks.stderr[-300:]}"
        except subprocess.TimeoutExpired:
            ended = f"the ranks came to no end in {BATCH_S:.0f} s"
        done = {line["optimizer"] for line in lines_of(out, phase)}
        left = [name for name in left if name not in done]
        if left:
            with (out / f"{phase}.jsonl").open("a") as file:
                file.write(json.dumps({"optimizer": left.pop(0), "failed": ended}) + "\n")


def sweep(names: Sequence[str], out: Path, site: Path) -> list[dict[str, Any]]:
    """Take the optimizers through all phases, some at a time; return their verdicts."""
    for first in range(0, len(names), AT_ONCE):
        batch = names[first : first + AT_ONCE]
        for phase in RANKS:
            start(out, phase, batch, site)
        print(f"{first + len(batch)} of {len(names)}, up to {batch[-1]}", file=sys.stderr)
    lines = [line for phase in RANKS for line in lines_of(out, phase)]
    return [
        verdict_of(name, [line for line in lines if line["optimizer"] == name]) for name in names
    ]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--libraries", nargs="+", choices=list(LIBRARIES), default=list(LIBRARIES))
    parser.add_argument("--only", nargs="+", help="optimizers, such as torch.AdamW")
    parser.add_argument("--site", type=Path, help="where the libraries are installed already")
    parser.add_argument(
        "--keep", type=Path, help="keep results in this folder; a run that was broken off continues"
    )
    parser.add_argument("--save", type=Path, help="also write the table to this file")
    return parser.parse_args()


def main() -> int:
    given = options()
    with tempfile.TemporaryDirectory(prefix="sweep-optimizers-") as scratch:
        out = (given.keep or Path(scratch) / "kept").absolute()
        out.mkdir(parents=True, exist_ok=True)
        site = given.site or site_with(given.libraries, Path(scratch) / "site")
        names = [name for library in given.libraries for name in names_in(library, site)]
        verdicts = sweep([n for n in names if given.only is None or n in given.only], out, site)
    result = f"{machine('torch')}\n\n{table_of(verdicts)}"
    print(result)
    for verdict in filter(is_wrong, verdicts):
        print(json.dumps(verdict), file=sys.stderr)
    if given.save is not None:
        given.save.write_text(result)
    return 1 if any(map(is_wrong, verdicts)) or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
