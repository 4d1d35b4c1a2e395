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
AT_ONCE = 40
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


def start(out: Path, phase: str, names: Sequence[str], site: Path) -> list[dict[str, Any]]:
    """Start the ranks for some optimizers; start again behind one that ends them."""
    file = out / f"{phase}.jsonl"
    lines: list[dict[str, Any]] = []
    left = list(names)
    while left:
        file.unlink(missing_ok=True)
        command = [sys.executable, "-c", "from launcher.cli import main; raise SystemExit(main())"]
        command += ["--nproc-per-node", str(RANKS[phase]), RANK, str(out), phase, *left[:AT_ONCE]]
        try:
            done = subprocess.run(
                command,
                env=environment(site),
                cwd=out,
                capture_output=True,
                text=True,
                timeout=BATCH_S,
            )
            ended = f"the ranks ended with {done.returncode}: {done.stderr[-300:]}"
        except subprocess.TimeoutExpired:
            ended = f"the ranks came to no end in {BATCH_S:.0f} s"
        found = (
            [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        )
        lines += found
        batch, left = left[:AT_ONCE], left[len(found) :]
        if len(found) < len(batch):
            lines.append({"optimizer": left.pop(0), "failed": ended})
        print(f"{phase}: {len(names) - len(left)} of {len(names)}", file=sys.stderr)
    return lines


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--libraries", nargs="+", choices=list(LIBRARIES), default=list(LIBRARIES))
    parser.add_argument("--only", nargs="+", help="optimizers, such as torch.AdamW")
    parser.add_argument("--site", type=Path, help="where the libraries are installed already")
    parser.add_argument("--save", type=Path, help="also write the table to this file")
    return parser.parse_args()


def main() -> int:
    given = options()
    with tempfile.TemporaryDirectory(prefix="sweep-optimizers-") as scratch:
        out = Path(scratch)
        site = given.site or site_with(given.libraries, out / "site")
        names = [name for library in given.libraries for name in names_in(library, site)]
        names = [name for name in names if given.only is None or name in given.only]
        lines = [line for phase in RANKS for line in start(out, phase, names, site)]
    verdicts = [
        verdict_of(name, [line for line in lines if line["optimizer"] == name]) for name in names
    ]
    result = f"{machine('torch')}\n\n{table_of(verdicts)}"
    print(result)
    for verdict in filter(is_wrong, verdicts):
        print(json.dumps(verdict), file=sys.stderr)
    if given.save is not None:
        given.save.write_text(result)
    return 1 if any(map(is_wrong, verdicts)) or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
