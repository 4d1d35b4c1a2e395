"""`Run`: what a training script holds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Unpack

import torch
from torch.utils.data import Subset

from checkpointing import CheckpointError
from strategies import (
    ConfigError,
    MapDataset,
    Ranks,
    StrategyError,
    fold_indices,
    quiet_engines,
    seed_streams,
    shield_loader_workers,
    split_indices,
)
from strategies.collectives.process_group import memory_in_use
from strategies.data.seeding import script_seed
from strategies.parallel.calls.bypass import explanation

from ..contract.environment import RankEnvironment
from ..contract.exit_codes import CONTINUE, DO_NOT_RETRY, DONE, USAGE
from ..contract.files.error_file import write_error, write_exception
from ..contract.files.heartbeat import Heartbeat, listen_for_stacks
from ..contract.files.run_dir_file import tell_folder
from ..contract.peer_loss import is_of_connection
from ..run_folder.folder import RunFolder, run_folder_at
from ..run_folder.lock import FolderTakenError, FolderUnavailableError
from .context import RunContext
from .ending.mistakes import code_of_mistake, mistake_text
from .ending.notices import Notice, notice_of
from .ending.rank_end import end_well, leave, leaving_with_others, own_environment
from .lockstep import where_raised
from .loop.fit import Loss, fit
from .loop.job import Job
from .loop.planning import leave_plan
from .recipe.arguments import require_arguments
from .recipe.measure import Measure
from .recipe.recipe import Recipe
from .recipe.script_config import Settings, build_config, to_json
from .recipe.signature import FitArguments, PrepareArguments, with_recipe
from .run_state import Preempted
from .start.opening import open_run
from .start.process import groups_of, listen_for_notices, require_main_thread
from .start.run_path import path_of_coordinator, run_path

_FAILURE = 1
quiet_engines()  # here, since transformers imports one, which speaks at once


class Run:
    """One start of a run; the object that `Run.start` passes to the script's main function."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        """What every part of the run is given."""
        self._job: Job | None = None

    @classmethod
    def start(
        cls,
        main: Callable[[Run], None],
        *,
        run_dir: str | Path | None = None,
        checkpoints: str | Path | None = None,
        seed: int = 0,
        exact: bool = False,
    ) -> None:
        """Run `main` under torch.distributed and end the process with the run's exit code.

        Called on every rank, from the script's `if __name__ == "__main__":`. Under `relaunch` the
        run folder, the strategy and the precision come from the command line. `python train.py`
        runs one rank with the same numbers.

        Args:
            main: the function of the script that trains; it gets the `Run`.
            run_dir: the run folder, unless --run-dir is given; default: runs/<script's name>.
            checkpoints: a folder or a URL for checkpoints and best weights, unless --checkpoints is
                given; default: the run folder.
            seed: seed of all random numbers, 0 <= seed < 2**63.
            exact: train the same bits on any number of ranks, as with --exact.

        Raises:
            ConfigError: this is not the main thread of the process.
        """
        require_main_thread()
        environment = own_environment()
        path = run_path(environment, run_dir)
        tell_folder(environment.folder_file, path)
        listen_for_stacks(environment.stacks_file)
        flag, start = listen_for_notices(environment)
        unshielded = shield_loader_workers()
        # From here on --hang-timeout counts: ranks that never meet are the commonest hang.
        Heartbeat(environment.heartbeat_file).beat()
        with (
            leaving_with_others(environment, start),
            groups_of(environment) as ranks,
        ):

            def begin() -> Run:
                is_named = environment.run.run_dir is not None or run_dir is not None
                kept = path if is_named else path_of_coordinator(path, environment, ranks)
                folder = run_folder_at(kept, environment.run.checkpoints or checkpoints)
                context = open_run(
                    environment,
                    ranks,
                    flag,
                    folder=folder,
                    seed=seed,
                    exact=exact,
                    before_first_step=start,
                )
                if unshielded is not None:
                    context.warn(unshielded)
                if (in_use := memory_in_use(ranks.device)) is not None:
                    context.warn_of_rank(in_use)
                start.pause()
                return cls(context)

            code = _code_of(begin, main, environment, is_coordinator=ranks.is_coordinator)
            end_well(environment, flag, start, code)
        sys.exit(code)

    def _call(self, main: Callable[[Run], None]) -> None:
        """Call the script's main.

        Raises:
            ConfigError: the model was computed beside its engine, which torch does not explain.
        """
        # What main draws, such as a split, is the same on every rank and at every start.
        seed_streams(script_seed(self.seed))
        try:
            main(self)
        except (RuntimeError, AssertionError) as error:
            sentence = explanation(error, self.strategy)
            if sentence is None:
                raise
            raise ConfigError(f"{where_raised(error) or 'the script'}: {sentence}") from error

    @property
    def device(self) -> torch.device:
        """This rank's device, to which batches are moved."""
        return self.context.device

    @property
    def ranks(self) -> Ranks:
        """This rank's place among all ranks of the run."""
        return self.context.ranks

    @property
    def folder(self) -> RunFolder:
        """The run folder; `folder.path` is its path."""
        return self.context.folder

    @property
    def attempt(self) -> int:
        """Number of this start of the run, from 1; higher than that of any start before."""
        return self.context.attempt

    @property
    def seed(self) -> int:
        """Seed of all random numbers."""
        return self.context.seed

    @property
    def strategy(self) -> str:
        """The strategy's name; "auto" until `prepare` has chosen one."""
        return self.context.asked_strategy if self._job is None else self._job.strategy

    def say(self, sentence: str) -> None:
        """Print a line on the coordinator."""
        self.context.say(sentence)

    def warn(self, sentence: str) -> None:
        """Print a warning on the coordinator's standard error."""
        self.context.warn(sentence)

    @property
    def notice(self) -> Notice | None:
        """The preemption notice of this rank, with its cause and the seconds left; or None.

        For long phases of the script: the ranks exit automatically at the next step, evaluation,
        test or export. Other ranks may not have received it yet, so no collective may depend on
        it.
        """
        return notice_of(self.context.preemption, time.time())

    @with_recipe
    def prepare(self, **recipe: Unpack[PrepareArguments]) -> Job:
        """Build the model under the run's strategy, and resume where the run was.

        Called on every rank. The arguments are the fields of `Recipe`, which says what they mean.

        Raises:
            ConfigError: something in the recipe cannot work, or the run folder holds another run.
        """
        context = self.context
        if context.environment.planned is not None:
            require_arguments(Recipe, recipe, where="run.prepare")
            leave_plan(context, Recipe(**recipe), context.environment.planned)
        context.before_first_step.leave_if_asked()
        context.lockstep.enter("run.prepare")
        self._refuse_second_job()
        require_arguments(Recipe, recipe, where="run.prepare")
        self._job = Job(context, Recipe(**recipe))
        return self._job

    @with_recipe
    def fit(
        self,
        *,
        loss: Loss,
        measure: Measure | None = None,
        validate: MapDataset | None = None,
        test: MapDataset | None = None,
        export: str | None = "best",
        **recipe: Unpack[FitArguments],
    ) -> Job:
        """Train, evaluate, export and test without your own loop. Called on every rank.

        Args:
            loss: (model, batch) -> (sum of the losses, number of samples or tokens).
            measure: (model, batch) -> {metric: one value per sample}; for `validate` and `test`.
            validate: evaluated at every `evaluate_every`.
            test: measured at the end, with the best weights.
            export: "best", "last" or "ema": the weights that are exported. None: no export.
            recipe: the other fields of `Recipe`.

        Raises:
            ConfigError: something in it cannot work.
        """
        return fit(
            self.prepare,
            loss=loss,
            measure=measure,
            validate=validate,
            test=test,
            export=export,
            recipe=recipe,
        )

    def config(self, cls: type[Settings], *, file: str | Path | None = None) -> Settings:
        """Return the script's settings, print and store them in run.json. Called on every rank.

        What is a secret by its name or its looks is kept and shown as ***.

        Args:
            cls: a dataclass, or the result of `launcher.config_from_file`.
            file: TOML, YAML or JSON, unless `--config FILE` is given; `--key=value` overrides it.

        Raises:
            ConfigError: an unknown key, or a value of another type.
        """
        found = build_config(cls, sys.argv[1:], file=None if file is None else Path(file))
        masks = self.context.masks
        masks.settings = to_json(found)
        if self.ranks.is_coordinator:
            shown = masks.description({**self.folder.described, "config": masks.settings})
            self.folder.update_run(shown)
            values = (f"{name}={value}" for name, value in shown["config"].items())
            self.say(f"settings: {'  '.join(values)}")
        return found

    def split(
        self,
        dataset: MapDataset,
        fractions: Sequence[float],
        *,
        stratify: Sequence[Hashable] | None = None,
    ) -> list[Subset[Any]]:
        """Split a data set by fractions such as (0.70, 0.15, 0.15), the same on every rank.

        `stratify` is one label per sample; each part then has each label in the same proportion.
        """
        parts = split_indices(len(dataset), fractions, seed=self.seed, stratify=stratify)
        return [Subset(dataset, part.tolist()) for part in parts]  # type: ignore[arg-type]

    def folds(
        self, dataset: MapDataset, k: int, *, stratify: Sequence[Hashable] | None = None
    ) -> list[tuple[Subset[Any], Subset[Any]]]:
        """Return k pairs (training, validation) of k-fold cross-validation, as `split` does."""
        folds = fold_indices(len(dataset), k, seed=self.seed, stratify=stratify)
        return [
            (Subset(dataset, train.tolist()), Subset(dataset, validation.tolist()))  # type: ignore[arg-type]
            for train, validation in folds
        ]

    def mistake_text(self, error: ConfigError) -> str:
        """Return what to say about a mistake of the script's that this rank has met."""
        lockstep = self.context.lockstep
        step = lockstep.step if lockstep.has_trained else None
        return mistake_text(str(error), where_raised(error), step=step)

    def save_after(self, error: Exception) -> str:
        """Save what is finished, if all ranks have met this; return what is kept, or nothing.

        Called on every rank that has met it; the process is to end then. Where the connection
        between the ranks broke, nothing can be saved.
        """
        if self._job is None or not self.context.lockstep.has_trained:
            return ""
        if is_of_connection(f"{type(error).__name__}: {error}"):
            return ""
        return self._job.save_after_mistake()

    def _refuse_second_job(self) -> None:
        if self._job is not None:
            raise ConfigError(
                "run.prepare was called a second time: a run is one model with one optimizer, and "
                "one folder. Train a second model in a script and a --run-dir of its own. Networks "
                "that are trained in turns with an optimizer each go into a loop of your own: "
                "launcher.Resumable(model={...}, optimizer={...})."
            )


def _code_of(
    begin: Callable[[], Run],
    main: Callable[[Run], None],
    environment: RankEnvironment,
    *,
    is_coordinator: bool,
) -> int:
    """Begin the run, call the script's main and return the exit code, where all is well.

    Whatever else ends the run ends this process, with its sentence or its exception.
    """
    run: Run | None = None
    try:
        run = begin()
        run.context.lockstep.follow(partial(run._call, main))
    except Preempted:
        return CONTINUE
    except FolderUnavailableError as error:
        if not error.may_pass:
            leave(environment.error_file, str(error), USAGE)
        if is_coordinator:
            print(f"relaunch: {error}", flush=True)
        return CONTINUE
    except FolderTakenError as error:
        leave(environment.error_file, str(error), DO_NOT_RETRY)
    except ConfigError as error:
        if run is None:
            leave(environment.error_file, str(error), USAGE)
        _leave_after_mistake(run, error)
    except (StrategyError, CheckpointError) as error:
        leave(environment.error_file, str(error), _FAILURE)
    except Exception as error:
        if run is not None:
            _record_end(run, error)
        raise
    return DONE


def _leave_after_mistake(run: Run, error: ConfigError) -> NoReturn:
    """End the process with what the script has done wrong, and with what is saved."""
    lockstep = run.context.lockstep
    file, at_s = run.context.environment.error_file, time.monotonic()
    lockstep.stay()
    sentence, code = run.mistake_text(error), code_of_mistake(has_trained=lockstep.has_trained)
    # First: a notice may end this rank while it waits for the others.
    write_error(file, sentence, exit_code=code, at_s=at_s)
    leave(file, f"{sentence} {run.save_after(error)}".rstrip(), code, at_s=at_s)


def _record_end(run: Run, error: Exception) -> None:
    """Leave what has ended the script for the launcher's report, and what is saved."""
    lockstep, mask = run.context.lockstep, run.context.masks.text
    file, at_s = run.context.environment.error_file, time.monotonic()
    lockstep.stay()
    where = lockstep.describe(error)
    write_exception(file, error, where, mask, at_s=at_s)  # first, as above
    end = f"{where}\n{run.save_after(error)}".rstrip()
    if not write_exception(file, error, end, mask, at_s=at_s):
        print(f"relaunch: {mask(end)}", file=sys.stderr, flush=True)
