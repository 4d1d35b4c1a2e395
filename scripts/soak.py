"""Rehearse the two training scripts and an example: many faults, compared with undisturbed runs.

Each is `relaunch rehearse`: a second soak with the same seed plays the same faults. What went wrong
is kept in the folder that is printed.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench_table import load_average, machine

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "import sys; from launcher.cli import main; sys.exit(main())"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One script, as it is rehearsed."""

    name: str
    options: tuple[str, ...]
    words: tuple[str, ...]
    share: int
    """Of the faults, in hundredths."""


CASES = (
    Case(
        name="digits",
        options=("--nproc-per-node", "2", "--strategy", "ddp"),
        words=("scripts/train_digits.py",),
        share=35,
    ),
    Case(
        name="bytes",
        options=("--nproc-per-node", "2", "--strategy", "fsdp"),
        words=("scripts/train_bytes.py", "--steps", "40", "--evaluate-every", "10"),
        share=35,
    ),
    Case(
        name="hugging-face",
        options=("--nproc-per-node", "3", "--strategy", "ddp"),
        words=("scripts/examples/hugging_face.py",),
        share=20,
    ),
    Case(
        name="two-nodes",
        options=("--nnodes", "2", "--strategy", "ddp"),
        words=("scripts/train_digits.py",),
        share=10,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=200, help="in all (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[case.name for case in CASES], help="this script alone")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    codes = {}
    for case in CASES:
        if arguments.only in (None, case.name):
            codes[case.name] = rehearse(case, folder, arguments)
    print(f"\nseed {arguments.seed}. {machine('torch')} {load_average()}")
    if wrong := [name for name, code in codes.items() if code]:
        print(f"wrong: {', '.join(wrong)}; see {folder}")
        sys.exit(1)


def rehearse(case: Case, folder: Path, arguments: argparse.Namespace) -> int:
    """Rehearse one script and print its table; return the exit code."""
    print(f"\n# {case.name}", flush=True)
    faults = max(1, arguments.faults * (100 if arguments.only else case.share) // 100)
    words = [
        *("--faults", str(faults), "--seed", str(arguments.seed)),
        *("--rehearsal-dir", str(folder / case.name), *case.options, *case.words),
    ]
    return subprocess.run([sys.executable, "-c", COMMAND, "rehearse", *words], cwd=ROOT).returncode


if __name__ == "__main__":
    main()
