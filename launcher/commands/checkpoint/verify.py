"""`relaunch checkpoint verify`: re-read every byte."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from checkpointing import DamagedCheckpointError, NoCheckpointError

from ...command_line.subcommand_parser import place
from ...errors import UsageError
from ...run_folder.tables import plural
from .answers import DAMAGED, FINE, print_json, print_lines
from .target import Target, add_weights, find_target

HELP = "Read every byte of some or all checkpoints, and report damage by file and range."


def add_arguments(parser: ArgumentParser) -> None:
    """Add what `verify` takes."""
    parser.add_argument("folder", type=place, metavar="FOLDER")
    add_weights(parser)
    parser.add_argument("steps", type=int, nargs="*", metavar="STEP", help="default: all")


def run(given: Namespace) -> int:
    """Print the damage of each checkpoint; 1 if there is any."""
    target = find_target(given.folder, given.weights)
    results = _of_one(target, given.steps) if target.is_one else _of_stores(target, given.steps)
    damage: dict[str, list[str]] = {}
    for name, lines in results:
        damage[name] = lines
        if not given.json:
            print_lines(f"{name}: {plural(len(lines), 'problem') if lines else 'whole'}", *lines)
    if given.json:
        print_json(damage)
    return DAMAGED if any(damage.values()) else FINE


def _of_one(target: Target, steps: list[int]) -> Iterator[tuple[str, list[str]]]:
    if steps:
        raise UsageError(f"{target.path} is one checkpoint already; leave the steps out.")
    try:
        with target.open_only() as reader:
            yield target.path.name, reader.verify()
    except DamagedCheckpointError as error:
        yield target.path.name, [str(error)]


def _of_stores(target: Target, steps: list[int]) -> Iterator[tuple[str, list[str]]]:
    known = {step for _, store in target.stores for step in store.steps()}
    if unknown := sorted(set(steps) - known):
        raise UsageError(
            f"{target.path} has no checkpoint of step {', '.join(map(str, unknown))}; it has "
            f"{', '.join(map(str, sorted(known))) or 'none'}."
        )
    for name, store in target.stores:
        for step in store.steps():
            if steps and step not in steps:
                continue
            try:
                lines = store.verify(step)
            except NoCheckpointError:
                continue
            # A run that is at work may have let it go while it was read: that is no damage.
            if not lines or step in store.steps():
                yield f"{name}/{store.path(step).name}", lines
