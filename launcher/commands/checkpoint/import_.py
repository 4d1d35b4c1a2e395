"""`relaunch checkpoint import`: start from what torch DCP, DeepSpeed or Hugging Face saved."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from checkpointing import JSON, CheckpointError, CheckpointStore, PlaceError, place_at

from ...command_line.subcommand_parser import place
from ...errors import UsageError
from ...run_folder.tables import plural, size_text
from .answers import FINE, print_json, print_lines

HELP = "Import another program's checkpoint as step 0 of a new run, without running its code."

_MAX_SHOWN = 5


def add_arguments(parser: ArgumentParser) -> None:
    """Add what `import` takes."""
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="a folder of DCP, DeepSpeed or safetensors"
    )
    parser.add_argument(
        "run",
        type=place,
        metavar="RUN",
        help="a run folder, or a URL, without checkpoints",
    )
    parser.add_argument(
        "--prefix", metavar="TEXT", help='text before the model\'s own names, such as "model."'
    )


def run(given: Namespace) -> int:
    """Write the checkpoint and print its content."""
    if not given.source.is_dir():
        raise UsageError(f"{given.source} is not a folder.")
    store = _store_of(given.run)
    from checkpointing import import_checkpoint, open_foreign  # they import torch

    try:
        source = open_foreign(given.source, prefix=given.prefix)
        with source.opened:
            taken: dict[str, JSON] = {
                "from": str(given.source.resolve()),
                "kind": source.kind,
                "ignored": list(source.ignored),
            }
            scalars: dict[str, JSON] = {n: dict(values) for n, values in source.scalars.items()}
            optimizer: dict[str, JSON] = {"name": None, "groups": [], "scalars": scalars}
            saved = import_checkpoint(
                store,
                source,
                state={"step": 0, "imported": taken, "optimizer": optimizer, "aliases": {}},
                created_by={"strategy": source.kind},
            )
    except CheckpointError:
        raise  # damage is a ValueError as well
    except ValueError as error:
        raise UsageError(str(error)) from error
    document: dict[str, JSON] = {
        "folder": str(saved.path),
        "kind": source.kind,
        "size_bytes": saved.size_bytes,
        "num_tensors": len(source.tensors),
        "ignored": list(source.ignored),
    }
    if given.json:
        print_json(document)
    else:
        shown = ", ".join(source.ignored[:_MAX_SHOWN])
        more = len(source.ignored) - _MAX_SHOWN
        rest = f" and {more} more" if more > 0 else ""
        print_lines(
            f"imported {plural(len(source.tensors), 'tensor')} ({size_text(saved.size_bytes)}) of "
            f"{source.kind} to {saved.path}",
            *([f"not imported: {shown}{rest}"] if source.ignored else []),
        )
    return FINE


def _store_of(run: str) -> CheckpointStore:
    try:
        place = place_at(run)
    except PlaceError as error:
        raise UsageError(str(error)) from error
    return CheckpointStore(place.folder / "checkpoints", place.files)
