"""`relaunch checkpoint export`: plain safetensors that other libraries load."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import replace
from pathlib import Path

from checkpointing import CheckpointError

from ...command_line.byte_size import byte_size
from ...command_line.subcommand_parser import place
from ...errors import UsageError
from ...run_folder.checkpoint_summary import export_metadata
from ...run_folder.tables import size_text
from .answers import FINE, print_json, print_lines
from .target import Target, add_weights, choose, find_target

HELP = "Write a checkpoint's weights as plain safetensors in a new folder, streaming."

_DTYPES = {
    "bf16": "BF16",
    "fp16": "F16",
    "fp32": "F32",
    "fp64": "F64",
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add what `export` takes."""
    add = parser.add_argument
    add("folder", type=place, metavar="FOLDER")
    add("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    add(
        "--step",
        type=int,
        metavar="N",
        help="default: the best weights of a run if there are any, else its newest checkpoint",
    )
    add("--dtype", type=_dtype, metavar="NAME", help="bf16, fp16, fp32, fp64; default: as saved")
    add(
        "--shard-size",
        type=byte_size,
        default="5GB",
        metavar="SIZE",
        help="most tensor bytes per file, such as 500MB or 2GiB (default 5GB)",
    )
    add_weights(parser)
    add("--config", type=Path, metavar="FILE", help="copied to config.json beside the weights")


def run(given: Namespace) -> int:
    """Write the folder and print its content."""
    target = find_target(given.folder, given.weights)
    if given.config is not None and not given.config.is_file():
        raise UsageError(f"--config {given.config} is not a file.")
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        raise UsageError(f"{given.out} exists already; pass a folder that does not.")
    chosen = choose(_best_first(target), given.step)
    from checkpointing import export_sharded  # after every check: it imports torch

    with chosen.open() as reader:
        manifest = reader.manifest
        try:
            names = export_sharded(
                reader,
                given.out,
                dtype=given.dtype,
                max_file_bytes=given.shard_size,
                config=given.config,
                metadata=export_metadata(manifest.step, manifest.state),
            )
        except CheckpointError:
            raise  # damage is a ValueError as well
        except ValueError as error:
            raise UsageError(f"{chosen.name}: {error}") from error
    sizes = {name: (given.out / name).stat().st_size for name in names}
    if given.json:
        print_json({"step": manifest.step, "folder": str(given.out), "size_bytes": sizes})
    else:
        print_lines(
            f"exported {chosen.name} to {given.out}:",
            *(f"{name}  {size_text(size_bytes)}" for name, size_bytes in sizes.items()),
        )
    return FINE


def _best_first(target: Target) -> Target:
    """Order a run's stores so that its best weights are chosen before its newest."""
    stores = sorted(target.stores, key=lambda pair: pair[0] != "best")
    return replace(target, stores=tuple(stores))


def _dtype(text: str) -> str:
    if text.lower() not in _DTYPES:
        raise ArgumentTypeError(f'unknown dtype "{text}"; choose from bf16, fp16, fp32, fp64')
    return _DTYPES[text.lower()]
