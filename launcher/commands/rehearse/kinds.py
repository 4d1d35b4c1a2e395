"""The kinds of faults: what happens, and what a run must make of it."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from signal import SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2

from . import damage, disturb
from .damage import Damage
from .disturb import Act, after_a_save, in_a_save, limited, network_cut, paused, signalled, slowed

RESUMABLE = (75,)
KILLED = (128 + SIGKILL,)
LAUNCHER_KILLED = (-SIGKILL,)
DONE = (0,)
NODE_LOST = (1, 75, 137)
"""Of a node that is left: 75 with a checkpoint, 1 without, 137 where its rank ended first."""
SHORT_CUT_S = 2.0
"""Well below the time after which a node of which nothing is heard is lost."""
DONE_OR_LAST_FAILED = (0, 1)
"""1: the trouble outlasts the training, whose last checkpoint could not be written."""
NOTICED = signalled(disturb.launcher, SIGTERM)
"""How a run is stopped where the fault comes afterwards."""


@dataclass(frozen=True, kw_only=True)
class Resume:
    """How the command is given again."""

    more_ranks: int = 0
    """Added to the number of ranks; with one rank only there are two then."""
    other_strategy: bool = False
    options: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    killed_first: bool = False
    """It is killed while it restores, and given a third time."""
    is_early: bool = False
    """It is given while the first command is still ending."""
    moves_folder: bool = False
    """The run folder has another path by then."""


@dataclass(frozen=True, kw_only=True)
class FaultKind:
    """One kind of fault."""

    name: str
    sentence: str
    """What happens."""
    during: Act
    """What is done once the step is reached that was drawn."""
    codes: tuple[int, ...]
    """The exit codes with which the first command may end."""
    loses_nothing: bool = False
    """No finished step may be done again; else those since the newest intact checkpoint may."""
    after: Damage | None = None
    """What is done to the run folder before the command is given again."""
    resume: Resume = field(default_factory=Resume)
    options: tuple[str, ...] = ()
    """Of the first command."""
    is_exact: bool = True
    """The end has the bits of the undisturbed run; else it is equal up to rounding."""
    loses_record: bool = False
    """A record of metrics.jsonl may be missing in the end."""
    at_start: bool = False
    """It comes as soon as there are ranks, before the first step."""
    nodes: int = 1
    """On so many it is played; in a rehearsal of one node with one rank each, on this host."""
    needs_nodes: bool = False
    """It is played with `--nnodes` alone."""
    needs_network: bool = False
    """The nodes must have a network of their own, which can be cut."""
    kills_node: int | None = None
    """The node whose launcher it kills, and whose exit code shows nothing then."""
    needs_run: bool = True
    """It is about what `Run` keeps; else it can be tried with any script."""


def _notice(name: str, sentence: str, during: Act, **more: object) -> FaultKind:
    given = {"codes": RESUMABLE, "loses_nothing": True, "needs_run": False, **more}
    return FaultKind(name=name, sentence=sentence, during=during, **given)  # type: ignore[arg-type]


def _damaged(name: str, sentence: str, after: Damage, *, loses_record: bool = False) -> FaultKind:
    return FaultKind(
        name=name,
        sentence=sentence,
        during=after_a_save(
            NOTICED
        ),  # a run of which nothing is intact does not start from the beginning
        after=after,
        codes=RESUMABLE,
        loses_record=loses_record,
    )


def _changed(name: str, sentence: str, resume: Resume, *, is_exact: bool = True) -> FaultKind:
    return FaultKind(
        name=name,
        sentence=sentence,
        during=NOTICED,
        codes=RESUMABLE,
        loses_nothing=True,
        resume=resume,
        is_exact=is_exact,
    )


def _of_nodes(name: str, sentence: str, during: Act, **more: object) -> FaultKind:
    given = {"codes": NODE_LOST, "nodes": 2, "needs_nodes": True, "needs_run": False, **more}
    text = f"with --nnodes: {sentence}"
    return FaultKind(name=name, sentence=text, during=during, **given)  # type: ignore[arg-type]


_ALL: tuple[FaultKind, ...] = (
    _notice("notice-launcher", "SIGTERM to the launcher", NOTICED),
    _notice("notice-rank", "SIGTERM to one rank", signalled(disturb.one_rank, SIGTERM)),
    _notice("notice-all", "SIGTERM to every process", signalled(disturb.everyone, SIGTERM)),
    _notice(
        "notice-twice",
        "SIGTERM to every process, and again",
        signalled(disturb.everyone, SIGTERM, SIGTERM, apart_s=0.02),
    ),
    _notice(
        "notice-mixed",
        "SIGUSR1, SIGUSR2, SIGHUP and SIGTERM to the launcher",
        signalled(disturb.launcher, SIGUSR1, SIGUSR2, SIGHUP, SIGTERM, apart_s=0.01),
    ),
    _notice("notice-usr1", "SIGUSR1 to the launcher", signalled(disturb.launcher, SIGUSR1)),
    _notice("hangup", "SIGHUP to the launcher", signalled(disturb.launcher, SIGHUP)),
    _notice("ctrl-c", "SIGINT to every process", signalled(disturb.everyone, SIGINT)),
    _notice(
        "ctrl-c-twice",
        "SIGINT to the launcher, and again 0.7 s later",
        signalled(disturb.launcher, SIGINT, SIGINT, apart_s=0.7),
        codes=(75, 130),
        loses_nothing=False,
    ),
    _notice(
        "notice-short-grace",
        "SIGTERM to the launcher with a grace of 0.01 s",
        NOTICED,
        codes=(75, 137, 143),
        loses_nothing=False,
        options=("--grace", "0.01"),
    ),
    _notice(
        "notice-at-start", "SIGTERM to the launcher before the first step", NOTICED, at_start=True
    ),
    _notice(
        "notice-in-save",
        "SIGTERM to the launcher while a save is in flight",
        in_a_save(NOTICED),
        needs_run=True,
    ),
    FaultKind(
        name="kill-rank",
        sentence="SIGKILL of one rank",
        during=signalled(disturb.one_rank, SIGKILL),
        codes=KILLED,
        needs_run=False,
    ),
    FaultKind(
        name="kill-rank-restart",
        sentence="SIGKILL of one rank, with --max-restarts 1",
        during=signalled(disturb.one_rank, SIGKILL),
        options=("--max-restarts", "1"),
        codes=DONE,
        needs_run=False,
    ),
    FaultKind(
        name="kill-launcher",
        sentence="SIGKILL of the launcher",
        during=signalled(disturb.launcher, SIGKILL),
        codes=LAUNCHER_KILLED,
        needs_run=False,
    ),
    FaultKind(
        name="kill-all",
        sentence="SIGKILL of every process, as when the power fails",
        during=signalled(disturb.everyone, SIGKILL),
        codes=LAUNCHER_KILLED,
        needs_run=False,
    ),
    FaultKind(
        name="kill-in-save",
        sentence="SIGKILL of every process while a save is in flight",
        during=in_a_save(signalled(disturb.everyone, SIGKILL)),
        codes=LAUNCHER_KILLED,
    ),
    FaultKind(
        name="kill-writer",
        sentence="SIGKILL of the processes that write checkpoints",
        during=signalled(disturb.writers, SIGKILL),
        codes=DONE,
    ),
    FaultKind(
        name="kill-writer-in-save",
        sentence="SIGKILL of the processes that write checkpoints while a save is in flight",
        during=in_a_save(signalled(disturb.writers, SIGKILL)),
        codes=DONE,
    ),
    FaultKind(
        name="kill-fork-server",
        sentence="SIGKILL of the fork server, while its ranks run",
        during=signalled(disturb.fork_server, SIGKILL),
        codes=DONE,
        needs_run=False,
    ),
    FaultKind(
        name="kill-guardian",
        sentence="SIGKILL of the guardian",
        during=signalled(disturb.guardian, SIGKILL),
        codes=DONE,
        needs_run=False,
    ),
    FaultKind(
        name="kill-loader",
        sentence="SIGKILL of a process that loads data",
        during=signalled(disturb.loader_worker, SIGKILL),
        codes=(0, 1, 137),
    ),
    FaultKind(
        name="hang-rank",
        sentence="SIGSTOP of one rank for good, with --hang-timeout 3",
        during=signalled(disturb.one_rank, SIGSTOP),
        options=("--hang-timeout", "3"),
        codes=(1, 137),
    ),
    FaultKind(
        name="pause-rank",
        sentence="one rank is stopped for 1 s",
        during=paused(disturb.one_rank),
        codes=DONE,
        needs_run=False,
    ),
    FaultKind(
        name="pause-launcher",
        sentence="the launcher is stopped for 1 s",
        during=paused(disturb.launcher),
        codes=DONE,
        needs_run=False,
    ),
    FaultKind(
        name="slow-disk",
        sentence="the processes that write checkpoints run one tenth of the time for 2 s",
        during=slowed(disturb.writers),
        codes=DONE,
    ),
    FaultKind(
        name="full-disk",
        sentence="nothing of a checkpoint can be written for 1 s",
        during=limited(resource.RLIMIT_FSIZE, 4096),
        codes=DONE_OR_LAST_FAILED,
    ),
    FaultKind(
        name="full-disk-at-notice",
        sentence="nothing of a checkpoint can be written any more, and SIGTERM to the launcher",
        during=limited(resource.RLIMIT_FSIZE, 4096, and_then=NOTICED),
        codes=(75, 1),
    ),
    FaultKind(
        name="no-descriptors",
        sentence="no file of a checkpoint can be opened for 1 s",
        during=limited(resource.RLIMIT_NOFILE, 3),
        codes=DONE_OR_LAST_FAILED,
    ),
    FaultKind(
        name="folder-blocked",
        sentence="a file stands in the place of the checkpoints' folder for 1 s",
        during=disturb.folder_blocked,
        codes=DONE_OR_LAST_FAILED,
    ),
    FaultKind(
        name="checkpoint-removed-in-run",
        sentence="the newest checkpoint is removed during the run",
        during=disturb.newest_removed,
        codes=DONE,
    ),
    _damaged("flip-bit", "one bit of the newest checkpoint is flipped", damage.bit_flipped),
    _damaged("manifest-cut", "the newest checkpoint's manifest is cut", damage.manifest_cut),
    _damaged("shard-removed", "a file of the newest checkpoint is gone", damage.shard_removed),
    _damaged("checkpoint-removed", "the newest checkpoint is gone", damage.newest_removed),
    _damaged("all-removed", "all checkpoints are gone", damage.all_removed),
    _damaged(
        "leftover", "a cut save and an empty folder of a later step lie there", damage.leftover_made
    ),
    _damaged(
        "metrics-cut",
        "the last line of metrics.jsonl is cut",
        damage.metrics_cut,
        loses_record=True,
    ),
    _damaged("events-cut", "the last line of events.jsonl is cut", damage.events_cut),
    _damaged("stale-lock", "the lock file names a process that is gone", damage.lock_left),
    _changed("other-ranks", "resumed with one more rank", Resume(more_ranks=1), is_exact=False),
    _changed("fewer-ranks", "resumed with one rank less", Resume(more_ranks=-1), is_exact=False),
    _changed(
        "other-strategy",
        "resumed under another strategy",
        Resume(other_strategy=True),
        is_exact=False,
    ),
    _changed("cold-start", "resumed with --cold", Resume(options=("--cold",))),
    _changed(
        "other-environment",
        "resumed with another PYTHONHASHSEED, time zone and locale",
        Resume(variables={"PYTHONHASHSEED": "4242", "TZ": "Asia/Tokyo", "LC_ALL": "C"}),
    ),
    _changed("folder-moved", "the run folder has moved", Resume(moves_folder=True)),
    _changed(
        "early-start", "the command is given while the first is ending", Resume(is_early=True)
    ),
    _changed(
        "killed-at-resume",
        "the resume is killed while it restores, and given again",
        Resume(killed_first=True),
    ),
    FaultKind(
        name="node-notice",
        sentence="two nodes; SIGTERM to the launcher of one",
        during=signalled(disturb.other_launcher, SIGTERM),
        nodes=2,
        codes=RESUMABLE,
        loses_nothing=True,
        is_exact=False,
    ),
    FaultKind(
        name="node-lost",
        sentence="two nodes; SIGKILL of the launcher of one",
        during=signalled(disturb.other_launcher, SIGKILL),
        nodes=2,
        codes=NODE_LOST,
        kills_node=disturb.OTHER,
        is_exact=False,
    ),
    _of_nodes(
        "node-killed",
        "SIGKILL of every process of the second node, as when its power fails",
        signalled(disturb.other_node, SIGKILL),
        kills_node=disturb.OTHER,
    ),
    _of_nodes(
        "leader-killed",
        "SIGKILL of every process of the first node",
        signalled(disturb.leader, SIGKILL),
        kills_node=disturb.LEADER,
    ),
    _of_nodes(
        "network-cut",
        "the second node's network is cut until the nodes have ended",
        network_cut(None),
        needs_network=True,
    ),
    _of_nodes(
        "network-cut-short",
        f"the second node's network is cut for {SHORT_CUT_S:g} s",
        network_cut(SHORT_CUT_S),
        needs_network=True,
        codes=DONE,
    ),
)

KINDS = {kind.name: kind for kind in _ALL}
"""By name, in the order in which they are listed."""
