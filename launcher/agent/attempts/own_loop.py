"""What a notice did to a script without `Run`, and which lines would save it: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...contract.exit_codes import CONTINUE
from ...contract.preemption import signal_name
from ...run_folder.progress_line import duration_text

_LINES = (
    (
        ("transformers", "trl"),
        "With callbacks=[RelaunchCallback()] and "
        "trainer.train(resume_from_checkpoint=RelaunchCallback.last(args)), from launcher.bridges, "
        "all ranks save and the same command resumes.",
    ),
    (
        ("lightning", "pytorch_lightning"),
        "With callbacks=[RelaunchLightning()] and a ResumableLoader, from launcher.bridges, all "
        "ranks save and the same command resumes.",
    ),
)
_ANY_LOOP = "docs/launching.md has the lines that save at a notice and exit with 75."


def without_run_text(name: str, asked: Sequence[str]) -> str:
    """Return the warning about options for the training that have no effect on the script."""
    has = "has" if len(asked) == 1 else "have"
    return (
        f"warning: {', '.join(asked)} {has} no effect unless a module of {name} uses Run: {name} "
        "itself does not import launcher, and a script without Run decides how it trains."
    )


def spawn_text(name: str, line: int) -> str:
    """Return the warning about a script that starts ranks itself.

    Args:
        name: of the script.
        line: in which it does.
    """
    return (
        f"warning: {name}:{line} starts processes with torch.multiprocessing, and relaunch has "
        "started the ranks already. As under torchrun, a process group of those looks for the "
        "launcher's store, and waits forever at another MASTER_PORT. Call the function itself, "
        "with int(os.environ['RANK']) and WORLD_SIZE; or, with --nproc-per-node 1, take "
        "TORCHELASTIC_USE_AGENT_STORE out of os.environ in each of them."
    )


def died_text(rank: int, signum: int) -> str:
    """Return how a rank ended that handles no notice."""
    return f"rank {rank} ended on {signal_name(signum)}: nothing in the script handles it."


def lost_text(lived_s: float, step: int | None) -> str:
    """Return what that cost.

    Args:
        lived_s: how long the attempt took.
        step: the last that a rank has reported with `launcher.beat`; None: none did.
    """
    done = f", up to step {step}" if step is not None else ""
    return f"Its work in {duration_text(lived_s)}{done} is lost, except for what it saved itself."


def left_text(warned_by: int) -> str:
    """Return that a script has left after a notice, to be resumed."""
    return (
        f"the script exited with {CONTINUE} after {signal_name(warned_by)}: the same command "
        "resumes it."
    )


def ended_with_0_text(warned_by: int) -> str:
    """Return why a script that ended with 0 is not taken for done."""
    return (
        f"the script handled {signal_name(warned_by)} and exited with 0, but it may not be "
        f"finished: relaunch exits with {CONTINUE}, so that it is started again. A finished script "
        f"then exits at once."
    )


def lines_text(modules: Collection[str]) -> str:
    """Return which lines would have saved the run.

    Args:
        modules: that the script imports, without what follows a dot.
    """
    return next((text for names, text in _LINES if not set(modules).isdisjoint(names)), _ANY_LOOP)
