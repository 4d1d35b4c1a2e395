"""From the plan to the settings of one attempt's workers."""

from dataclasses import replace
from pathlib import Path

from ..contract.environment import GroupSettings
from ..plan.launch_plan import LaunchPlan


def group_settings(
    plan: LaunchPlan,
    *,
    run_id: str,
    scratch: Path,
    master_addr: str,
    master_port: int,
    restart_count: int,
    attempt: int | None,
    interface: str | None,
    start_dir: Path | None = None,
    log_folder: Path | None = None,
) -> GroupSettings:
    """Return what all workers of one attempt on this node have in common; pure.

    Args:
        plan: The resolved plan.
        run_id: The mark of this start of the command.
        scratch: The folder for this start's small files.
        master_addr: Where the ranks meet.
        master_port: The port there.
        restart_count: How many attempts of this start came before.
        attempt: Its number in the run's folder; None where that is left to the script.
        interface: The network interface towards the other ranks; None: not known.
        start_dir: The launcher's working folder; None: not known.
        log_folder: Of this attempt, on this node; None: no logs are written.
    """
    return GroupSettings(
        master_addr=master_addr,
        master_port=master_port,
        restart_count=restart_count,
        max_restarts=plan.max_restarts,
        run_id=run_id,
        rendezvous_id=plan.nodes.run_id or ("none" if plan.nodes.several else run_id),
        interface=interface,
        virtual_local_rank=plan.virtual_local_rank,
        run=plan.run,
        cpus=plan.cpus,
        start_dir=start_dir,
        attempt=attempt,
        log_folder=log_folder,
        warning_file=scratch / "warning.json",
        limits=replace(plan.limits, grace_s=shorter(plan.grace_s, plan.limits.grace_s)),
    )


def shorter(one_s: float | None, other_s: float | None) -> float | None:
    """Return the shorter of two times of which either may be unknown; pure."""
    return min((s for s in (one_s, other_s) if s is not None), default=None)
