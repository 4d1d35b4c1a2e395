"""`relaunch checkpoint prune`: let old checkpoints go, never what is the best or referred to."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass
from pathlib import Path, PurePath

from checkpointing import CheckpointStore, Found, Retention, take_inventory
from checkpointing.store.store import bytes_of_files

from ...command_line.subcommand_parser import place
from ...errors import UsageError
from ...run_folder.checkpoint_summary import best_step, score
from ...run_folder.jsonl import newest_start
from ...run_folder.tables import plural, size_text
from .answers import FINE, print_json, print_lines
from .prune_plan import PrunePlan, plan_prune
from .target import Target, find_target

HELP = "Delete all but the newest checkpoints and the best weights that these refer to."


@dataclass(frozen=True, kw_only=True)
class _Stores:
    checkpoints: CheckpointStore
    best: CheckpointStore | None


def add_arguments(parser: ArgumentParser) -> None:
    """Add what `prune` takes."""
    parser.add_argument("folder", type=place, metavar="FOLDER")
    add = parser.add_argument
    add("--keep", type=_keep, required=True, metavar="N", help="keep the N newest checkpoints")
    add(
        "--keep-every", type=_keep, metavar="STEPS", help="also keep the first of every STEPS steps"
    )
    add("--keep-best", type=_keep, default=0, metavar="M", help="also keep the M best")
    add("--yes", action="store_true", help="delete; without it, print what would be deleted")


def run(given: Namespace) -> int:
    """Print what goes, and with --yes delete it, oldest first."""
    target = find_target(given.folder)
    stores = _stores(target)
    found = take_inventory(stores.checkpoints).found
    best = take_inventory(stores.best).found if stores.best is not None else ()
    plan = plan_prune(
        {one.step: best_step(one.manifest.state) for one in found if one.manifest is not None},
        damaged=[one.step for one in found if one.manifest is None],
        best=[one.step for one in best if not _is_pinned(stores.best, one.step)],
        retention=Retention(
            keep=given.keep, keep_every_steps=given.keep_every, keep_best=given.keep_best
        ),
        scores={
            one.step: found_score
            for one in found
            if one.manifest is not None and (found_score := score(one.manifest.state)) is not None
        },
        protected=_protected(stores, target.run, [one.step for one in found]),
    )
    going = _going(stores.checkpoints, found, plan.checkpoints)
    if stores.best is not None:
        going += _going(stores.best, best, plan.best)
    freed_bytes = _freed_bytes(going)
    for store, one in going if given.yes else ():
        store.delete(one.step)
    folders = [str(one.folder) for _, one in going]
    if given.json:
        print_json(
            {
                "deleted": given.yes,
                "folders": folders,
                "freed_bytes": freed_bytes,
                "stays": list(plan.reasons),
            }
        )
    else:
        print_lines(*_lines(folders, freed_bytes, plan, deleted=given.yes))
    return FINE


def _stores(target: Target) -> _Stores:
    """Return the stores of a run, given as its folder or as one of the two in it.

    Raises:
        UsageError: The folder is one checkpoint, or the best alone.
    """
    if target.is_one:
        raise UsageError(f"{target.path} is one checkpoint; pass the run's folder.")
    by_name = dict(target.stores)
    if "best" in by_name and "checkpoints" not in by_name:
        raise UsageError(
            f"{target.path} holds the best weights, which checkpoints refer to; pass the run's "
            "folder, so that their references are read."
        )
    checkpoints = target.stores[0][1]
    folder = checkpoints.folder
    beside = (Path(folder).absolute() if isinstance(folder, Path) else folder).parent / "best"
    best = by_name.get("best") or CheckpointStore(beside, checkpoints.files)
    is_of_run = folder.name == "checkpoints" and best.files.exists(best.folder)
    return _Stores(checkpoints=checkpoints, best=best if is_of_run else None)


def _is_pinned(store: CheckpointStore | None, step: int) -> bool:
    return store is not None and store.is_pinned(step)


def _protected(stores: _Stores, run: Path | None, steps: list[int]) -> dict[int, str]:
    """Return the steps that must not be deleted, and why."""
    found = {step: "it is pinned" for step in steps if stores.checkpoints.is_pinned(step)}
    start = None if run is None else newest_start(run)
    if start is not None and start.get("resumed"):
        found.setdefault(start.get("step", -1), "the run last resumed from it")
    return found


def _going(
    store: CheckpointStore, found: tuple[Found, ...], steps: tuple[int, ...]
) -> list[tuple[CheckpointStore, Found]]:
    return [(store, one) for one in sorted(found, key=lambda one: one.step) if one.step in steps]


def _freed_bytes(going: list[tuple[CheckpointStore, Found]]) -> int:
    """Return the bytes that go, without what checkpoints that stay share with those that go."""
    steps: dict[CheckpointStore, list[int]] = {}
    for store, one in going:
        steps.setdefault(store, []).append(one.step)
    removed: dict[PurePath, int] = {}
    for store, own in steps.items():
        removed |= store.files_going_with(own)
    return bytes_of_files(removed, going[0][0].files) if going else 0


def _lines(folders: list[str], freed_bytes: int, plan: PrunePlan, *, deleted: bool) -> list[str]:
    verb = "deleted" if deleted else "would be deleted"
    total = f"{plural(len(folders), 'checkpoint')}, {size_text(freed_bytes)}, {verb}"
    hint = [] if deleted or not folders else ["Nothing was deleted yet: add --yes."]
    return [*folders, *plan.reasons, total, *hint]


def _keep(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)
