"""`relaunch checkpoint pin`: no run and no prune deletes these, until the pin is taken away."""

from argparse import ArgumentParser, Namespace

from checkpointing import CheckpointStore

from ...command_line.subcommand_parser import place
from ...errors import UsageError
from .answers import FINE, print_json, print_lines
from .target import find_target

HELP = "Keep a checkpoint permanently: neither a run nor prune deletes it. --remove unpins it."


def add_arguments(parser: ArgumentParser) -> None:
    """Add what `pin` takes."""
    parser.add_argument("folder", type=place, metavar="FOLDER")
    parser.add_argument("steps", type=int, nargs="+", metavar="STEP")
    parser.add_argument("--remove", action="store_true", help="remove the pin")


def run(given: Namespace) -> int:
    """Pin or unpin, and print which."""
    target = find_target(given.folder)
    if target.is_one:
        raise UsageError(f"{target.path} is one checkpoint; pass the run's folder and a step.")
    holders = [_holder([store for _, store in target.stores], step) for step in given.steps]
    for store, step in holders:
        if given.remove:
            store.unpin(step)
        else:
            store.pin(step)
    if given.json:
        folders = [str(store.path(step)) for store, step in holders]
        print_json({"pinned": not given.remove, "folders": folders})
    else:
        verb = "may be deleted again" if given.remove else "is pinned"
        print_lines(*(f"{store.path(step)} {verb}" for store, step in holders))
    return FINE


def _holder(stores: list[CheckpointStore], step: int) -> tuple[CheckpointStore, int]:
    """Return the first store that has a step; the first of all where none has."""
    return next((store for store in stores if step in store.steps()), stores[0]), step
