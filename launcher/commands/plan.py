"""`relaunch plan`: what a run would need on machines that are not there yet.

The script is run up to `run.prepare`, in one process on the CPU; nothing is trained and no run
folder is written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strategies.parallel.registry import STRATEGY_CHOICES

from ..command_line.byte_size import byte_size
from ..command_line.subcommand_parser import CommandParser
from ..contract.environment import OWN_NAMES
from ..contract.planned_machines import PLAN, PlannedMachines
from ..contract.run_options import RunOptions
from ..errors import UsageError
from ..run_folder.tables import size_text

_EPILOG = """\
examples:
  relaunch plan --ranks 512 --gpu-memory 80GiB train.py
  relaunch plan --ranks 8 --gpu-memory 24GiB --precision bf16 train.py --layers 48
"""
_GPUS_PER_NODE = 8
_LEAST_BYTES = 1 << 20
"""Less is a size whose unit was forgotten."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of everything after `relaunch plan`."""
    parser = CommandParser(
        prog="relaunch plan",
        description="Print what --strategy auto would choose on machines that you do not have yet: "
        "the memory of each rank, and the size and time of a save. The script runs on the CPU, up "
        "to run.prepare.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--ranks", type=int, required=True, metavar="N", help="ranks of the run, one per GPU")
    add(
        "--gpu-memory",
        type=byte_size,
        required=True,
        metavar="SIZE",
        help="of one GPU, such as 80GiB",
    )
    add("--ranks-per-node", type=int, metavar="N", help="default: 8, or all if there are fewer")
    add("--precision", choices=("fp32", "bf16", "fp16"), help="default: fp32")
    add("--strategy", choices=STRATEGY_CHOICES, help="compute only this one; default: auto")
    add("--shard-blocks", metavar="PATTERNS", help="as for relaunch")
    add("--hybrid-shard", action="store_true", help="as for relaunch")
    add("--exact", action="store_true", help="as for relaunch")
    add(
        "--write-speed",
        type=byte_size,
        default="1GB",
        metavar="SIZE",
        help="bytes per second that a node writes to the checkpoints (default 1GB)",
    )
    add("--json", action="store_true", help="print one JSON document")
    add("script", metavar="SCRIPT")
    add("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="the script's own")
    return parser


def run(argv: Sequence[str]) -> int:
    """Run `relaunch plan` and return the exit code.

    Raises:
        UsageError: the words are wrong, or the script does not come to `run.prepare`.
        SystemExit: 0, after `--help` was printed.
    """
    given = build_parser().parse_args(argv)
    per_node = given.ranks_per_node or min(_GPUS_PER_NODE, given.ranks)
    if given.ranks < 1:
        raise UsageError(f"--ranks {given.ranks} must be above 0.")
    if given.ranks_per_node is not None and given.ranks_per_node < 1:
        raise UsageError(f"--ranks-per-node {given.ranks_per_node} must be above 0.")
    if given.gpu_memory < _LEAST_BYTES:
        raise UsageError(
            f"--gpu-memory of {given.gpu_memory} bytes is no GPU's. Give a unit, such as 80GiB."
        )
    if given.ranks % per_node:
        raise UsageError(
            f"--ranks {given.ranks} are not whole nodes of {per_node}. Pass --ranks-per-node."
        )
    if not Path(given.script).is_file():
        raise UsageError(f"{given.script} is not a script.")
    with tempfile.TemporaryDirectory(prefix="relaunch-plan-") as folder:
        machines = PlannedMachines(
            ranks=given.ranks,
            ranks_per_node=per_node,
            gpu_memory_bytes=given.gpu_memory,
            write_bytes_per_s=float(given.write_speed),
            answer=str(Path(folder) / "answer.json"),
        )
        environ = _environ(os.environ, given, machines, Path(folder) / "run")
        ended = subprocess.run(
            [sys.executable, given.script, *given.arguments],
            env=environ,
            stdout=2,  # what the script prints is not the answer
            check=False,
        )
        if not machines.answer_file.exists():
            if ended.returncode:
                return ended.returncode
            raise UsageError(
                f"{given.script} ended without run.prepare, so its model is unknown. "
                "relaunch plan needs a script that uses Run."
            )
        answer = json.loads(machines.answer_file.read_text())
    print(json.dumps(answer) if given.json else _text(answer))
    return 0


def _environ(
    inherited: Mapping[str, str], given: argparse.Namespace, machines: PlannedMachines, folder: Path
) -> dict[str, str]:
    """Return the environment of the script. Pure."""
    hidden = {*OWN_NAMES, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"}
    asked = RunOptions(
        run_dir=folder,
        strategy=given.strategy,
        precision=given.precision,
        shard_blocks=given.shard_blocks,
        hybrid_shard=given.hybrid_shard,
        exact=given.exact,
    )
    kept = {name: value for name, value in inherited.items() if name not in hidden}
    # A GPU that is here is not the one that is asked about.
    return kept | asked.to_environ() | {PLAN: machines.text(), "CUDA_VISIBLE_DEVICES": ""}


def _text(answer: Mapping[str, Any]) -> str:
    save = answer["save"]
    return "\n".join(
        [
            f"on {answer['ranks']} ranks, {answer['ranks_per_node']} a node, with "
            f"{size_text(answer['gpu_memory_bytes'])} each; bytes on each rank, estimated:",
            *([answer["table"]] if answer["table"] else []),
            f"{answer['strategy']}: {answer['reason']}",
            f"a save: {size_text(save['size_bytes'])} in all, {size_text(save['rank_bytes'])} a "
            f"rank; about {save['seconds']:.1f} s where a node writes "
            f"{size_text(save['write_bytes_per_s'])} a second",
        ]
    )
