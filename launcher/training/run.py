"""`Run`: what a training script holds."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from checkpointing import JSON, CheckpointError
from strategies import (
    ConfigError,
    HostCommunicator,
    MapDataset,
    Precision,
    Ranks,
    StrategyError,
    fold_indices,
    precision_for,
    process_groups,
    quiet_engines,
    shield_loader_workers,
    split_indices,
)
from strategies.parallel.calls.bypass import explanation

from ..contract.environment import RankEnvironment
from ..contract.error_file import write_error, write_exception
from ..contract.exit_codes import CONTINUE, DONE, USAGE
from ..contract.heartbeat import Heartbeat, listen_for_stacks
from ..contract.masking import mask_text, secrets_of
from ..contract.peer_loss import is_peer_loss
from ..contract.preemption import PreemptionFlag
from ..contract.run_dir_file import tell_folder, working_folder
from ..run_folder.attempt_number import last_number
from ..run_folder.folder import RunFolder, run_folder_at
from ..run_folder.lock import FolderLock
from .ending.before_first_step import BeforeFirstStep
from .ending.mistakes import code_of_mistake, mistake_text
from .ending.notices import Notice, notice_of
from .ending.rank_end import end_well, leave, leave_unsaved, leaving_with_others
from .lockstep import Itinerary, where_raised
from .loop.fit import Loss, fit
from .loop.job import Job
from .recipe.arguments import require_arguments
from .recipe.measure import Measure
from .recipe.recipe import Recipe
from .recipe.script_config import Settings, build_config, to_json
from .reporting.rank_console import RankConsole
from .reporting.start_table import Place
from .run_state import Preempted

_FAILURE = 1
quiet_engines()  # here, since transformers imports one, which speaks at once
_IMPORTED_IN = working_folder()
"""Where the script was started, before it went elsewhere: its runs are kept here, unless it says
otherwise, so that the same command finds them."""


class Run:
    """One start of a training script on one rank: its place, its folder and its settings."""

    def __init__(
        self,
        environment: RankEnvironment,
        ranks: Ranks,
        preemption: PreemptionFlag,
        *,
        folder: RunFolder,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
        before_first_step: BeforeFirstStep | None = None,
    ) -> None:
        """Called on every rank.

        Raises:
            ConfigError: the folder cannot be written, or precision or strategy do not suit.
        """
        self.environment = environment
        self.ranks = ranks
        self.preemption = preemption
        self.before_first_step = before_first_step or BeforeFirstStep(preemption)
        """Lets a notice end this rank at once, until it has something to save."""
        self.heartbeat = Heartbeat(environment.heartbeat_file)
        self.heartbeat.beat()
        self.folder = folder
        self.console = RankConsole(is_heard=ranks.is_coordinator)
        self.seed = seed
        self.clock = clock
        self.communicator = HostCommunicator(ranks)
        self.itinerary = Itinerary(ranks, end_process=self._end_process)
        self.strategy = environment.strategy or ("single" if ranks.world_size == 1 else "auto")
        self.precision: Precision = precision_for(
            environment.precision or "fp32", ranks.device.type
        )
        self._job: Job | None = None
        self.attempt = self._open_folder()
        """Number of this start of the run, from 1; higher than that of any start before."""

    @classmethod
    def start(
        cls,
        main: Callable[[Run], None],
        *,
        run_dir: str | Path | None = None,
        checkpoints: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        """Run `main` under torch.distributed and end the process with the run's exit code.

        Called on every rank, from the script's `if __name__ == "__main__":`. Under `relaunch` the
        place, the strategy and the precision come from the command line; as `python train.py` it
        is one rank with the same numbers.

        Args:
            main: the training script's own function.
            run_dir: the run folder, unless --run-dir says otherwise; default runs/<script's name>.
            checkpoints: where checkpoints and the best weights go, a folder or a URL, unless
                --checkpoints says otherwise; default: the run folder.
            seed: of everything that is random, 0 <= seed < 2**63.
        """
        try:
            environment = RankEnvironment.from_environ(os.environ)
        except ValueError as error:
            leave(None, str(error), USAGE)
        began_in = environment.start_dir or _IMPORTED_IN or Path()
        usual = began_in / "runs" / Path(sys.argv[0]).stem
        path = environment.run_dir or (usual if run_dir is None else Path(run_dir))
        tell_folder(environment.folder_file, path)
        listen_for_stacks(environment.stacks_file)
        launcher = None if environment.warning_file is None else os.getppid()
        flag = PreemptionFlag(environment.warning_file, launcher)
        flag.install_until_exit()
        start = BeforeFirstStep(flag, partial(leave_unsaved, environment, flag))
        start.begin()
        unshielded = shield_loader_workers()
        # From here on --hang-timeout counts: ranks that never meet are the commonest hang.
        Heartbeat(environment.heartbeat_file).beat()
        code = DONE
        with (
            leaving_with_others(environment, start),
            process_groups(
                rank=environment.rank,
                local_rank=environment.local_rank,
                world_size=environment.world_size,
                node_rank=environment.node_rank,
            ) as ranks,
        ):
            run: Run | None = None
            try:
                folder = run_folder_at(path, environment.checkpoints or checkpoints)
                run = cls(
                    environment, ranks, flag, folder=folder, seed=seed, before_first_step=start
                )
                if unshielded is not None:
                    run.warn(unshielded)
                start.pause()
                run.itinerary.follow(lambda: run._call(main))
            except Preempted:
                code = CONTINUE
            except ConfigError as error:
                sentence, code = (str(error), USAGE) if run is None else run.mistaken(error)
                leave(environment.error_file, sentence, code)
            except (StrategyError, CheckpointError) as error:
                leave(environment.error_file, str(error), _FAILURE)
            except Exception as error:
                if run is not None:
                    run.itinerary.stay()
                    write_exception(environment.error_file, error, run.describe_end(error))
                raise
            end_well(environment, flag, start, code)
        sys.exit(code)

    def _call(self, main: Callable[[Run], None]) -> None:
        """Call the script's main.

        Raises:
            ConfigError: the model was computed beside its engine, which torch does not explain.
        """
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
        return self.ranks.device

    @property
    def notice(self) -> Notice | None:
        """The preemption notice that this rank has: its cause and the seconds left; else None.

        For a long phase of the script's own: the ranks leave by themselves at the next step,
        evaluation, test or export. Other ranks may not have it yet: nothing that all ranks do
        together may depend on it.
        """
        return notice_of(self.preemption, time.time())

    def prepare(self, **recipe: Any) -> Job:
        """Build the model under the run's strategy and go on where the run was.

        Called on every rank. The arguments are the fields of `Recipe`.

        Raises:
            ConfigError: something in the recipe cannot work, or the run folder holds another run.
        """
        self.before_first_step.go_on()
        self.itinerary.come_to("run.prepare")
        self._refuse_second_job()
        require_arguments(Recipe, recipe, where="run.prepare")
        self._job = Job(self, Recipe(**recipe))
        return self._job

    def fit(
        self,
        *,
        loss: Loss,
        measure: Measure | None = None,
        validate: MapDataset | None = None,
        test: MapDataset | None = None,
        export: str | None = "best",
        **recipe: Any,
    ) -> Job:
        """Train without a loop of one's own, on the same engine. Called on every rank.

        Args:
            loss: (model, batch) -> (sum of the losses, of how many samples or tokens).
            measure: (model, batch) -> {metric: one value a sample}; for `validate` and `test`.
            validate: evaluated whenever `evaluate_every` says so.
            test: measured at the end, with the best weights.
            export: "best" or "last" is written as plain safetensors; None: neither.
            recipe: the fields of `Recipe`.

        Raises:
            ConfigError: something in it cannot work.
        """
        return fit(
            self,
            loss=loss,
            measure=measure,
            validate=validate,
            test=test,
            export=export,
            recipe=recipe,
        )

    def config(self, cls: type[Settings], *, file: str | Path | None = None) -> Settings:
        """Return the script's settings; they are kept in run.json and shown. Called on every rank.

        Args:
            cls: a dataclass, or what `launcher.config_from_file` makes of a file.
            file: TOML, YAML or JSON, unless `--config FILE` is given; `--key=value` wins over it.

        Raises:
            ConfigError: a key that does not exist, or a value of another type.
        """
        found = build_config(cls, sys.argv[1:], file=None if file is None else Path(file))
        if self.ranks.is_coordinator:
            told = to_json(found)
            self.folder.write_run({**self._description(self.attempt), "config": told})
            self.say("settings: " + "  ".join(f"{k}={v}" for k, v in told.items()))
        return found

    def split(
        self,
        dataset: MapDataset,
        fractions: Sequence[float],
        *,
        stratify: Sequence[Hashable] | None = None,
    ) -> list[Subset[Any]]:
        """Split a data set by shares such as (0.70, 0.15, 0.15), the same on every rank.

        `stratify` is one label a sample; every part then holds each label in the same share.
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

    def say(self, sentence: str) -> None:
        """Print a line on the coordinator."""
        self.console.say(sentence)

    def warn(self, sentence: str) -> None:
        """Print a warning on the coordinator's standard error."""
        self.console.warn(sentence)

    def warn_of_rank(self, sentence: str) -> None:
        """Print a warning about this rank alone, whichever it is."""
        print(f"relaunch: warning: rank {self.ranks.rank}: {sentence}", file=sys.stderr, flush=True)

    @property
    def is_first_start_of_launcher(self) -> bool:
        """Whether the launcher's own start belongs to this one's."""
        return self.environment.launched and self.environment.restart_count == 0

    def places(self) -> list[Place]:
        """Return where every rank runs, in rank order. Called on every rank."""
        device = self.ranks.device
        name = f"{torch.cuda.get_device_name(device)} ({device})" if device.type == "cuda" else ""
        mine: JSON = {"host": platform.node(), "device": name or str(device)}
        everyone: list[Any] = self.communicator.all_gather(mine)
        return [Place(**one) for one in everyone]

    def describe(self) -> str:
        """Say where and how this start runs."""
        ranks = self.ranks
        count = "1 rank" if ranks.world_size == 1 else f"{ranks.world_size} ranks"
        return f"{self.strategy} on {count} ({ranks.device.type}), {self.precision.name}"

    def created_by(self) -> dict[str, JSON]:
        """Return what every checkpoint says of its maker."""
        return {
            "relaunch": _version(),
            "torch": torch.__version__,
            "strategy": self.strategy,
            "world_size": self.ranks.world_size,
            "precision": self.precision.name,
            "attempt": self.attempt,
        }

    def mistaken(self, error: ConfigError) -> tuple[str, int]:
        """Save what is finished; return what to say about a mistake, and the exit code.

        Called on every rank that has met one.
        """
        self.itinerary.stay()
        has_trained = self._has_trained
        step = self.itinerary.step if has_trained else None
        sentence = mistake_text(str(error), where_raised(error), step=step)
        if self._job is not None and has_trained:
            sentence = f"{sentence} {self._job.save_after_mistake()}"
        return sentence, code_of_mistake(has_trained=has_trained)

    def describe_end(self, error: Exception) -> str:
        """Return where an exception of the script's ended this rank.

        One that came out of `measure` is met by all ranks: what is finished is saved first.
        """
        where, words = self.itinerary.describe(error), f"{type(error).__name__}: {error}"
        if self._job is None or not self._job.is_evaluating or is_peer_loss(words):
            return where
        return f"{where}\n{self._job.save_after_mistake()}"

    @property
    def _has_trained(self) -> bool:
        return self._job is not None and self._job.has_trained

    def _refuse_second_job(self) -> None:
        if self._job is not None:
            raise ConfigError(
                "run.prepare was called a second time: a run is one model with one optimizer, and "
                "one folder. Train a second model in a script and a --run-dir of its own; two "
                "networks that are trained in turns can be one module whose losses are added."
            )

    def _end_process(self, sentence: str) -> None:
        """End a rank that has left its loop and goes on alone; called in a thread."""
        code = code_of_mistake(has_trained=self._has_trained)
        if not write_error(self.environment.error_file, sentence, exit_code=code):
            print(f"relaunch: error: {sentence}", file=sys.stderr, flush=True)
        os._exit(code)

    def _open_folder(self) -> int:
        """Make the run folder; every rank hears whether it worked. Called on every rank."""
        answer: JSON = None
        if self.ranks.is_coordinator:
            try:
                self.folder.create()
                self._lock = FolderLock.take(self.folder.path, warn=self.warn)
                self.folder.require_same_checkpoints()
                former = last_number(self.folder.events())
                number = max(former + 1, self.environment.attempt)
                self.folder.write_run(self._description(number))
                answer = number
            except (ConfigError, OSError) as error:
                answer = str(error)
        answer = self.communicator.broadcast(answer)
        if not isinstance(answer, int):
            raise ConfigError(str(answer))
        return answer

    def _description(self, attempt: int) -> dict[str, Any]:
        return {
            "script": str(Path(sys.argv[0]).resolve()),
            "arguments": [mask_text(word, secrets_of(os.environ)) for word in sys.argv[1:]],
            "attempt": attempt,
            "checkpoints": self.folder.elsewhere,
            "seed": self.seed,
            "strategy": self.strategy,
            "precision": self.precision.name,
            "world_size": self.ranks.world_size,
            "device": self.ranks.device.type,
            "versions": {
                "relaunch": _version(),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "git_commit": _git_commit(Path(sys.argv[0]).resolve().parent),
        }


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("relaunch")
    except PackageNotFoundError:  # used from a source tree that is not installed
        return "unknown"


def _git_commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
