"""What `--dry-run` prints: the resolved plan and the environment of rank 0, secrets masked."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..contract.environment import RankFiles, WorkerPlace, worker_environment
from ..contract.files.run_dir_file import working_folder
from ..contract.masking import mask_arguments, mask_environment, mask_text, secrets_of
from ..plan.launch_plan import LaunchPlan
from ..rendezvous.network import interface_of_run
from ..run_folder.attempt_number import next_number
from .worker_settings import group_settings

_SCRATCH = Path("SCRATCH")
"""Stands for the folder of small files that a start makes."""
_RUN_ID = "RUN_ID"


def describe(plan: LaunchPlan, environ: Mapping[str, str]) -> str:
    """Return the text; changes nothing."""
    secrets = secrets_of(environ)
    lines = ["plan:"]
    lines += [f"  {name}: {mask_text(value, secrets)}" for name, value in _plan(plan, environ)]
    lines.append("environment of rank 0:")
    environment = rank_0_environment(plan, environ)
    added = {name for name, value in environment.items() if environ.get(name) != value}
    shown = mask_environment(environment)
    lines += [f"  {name}={shown[name]}" for name in sorted(added)]
    lines.append("  and unchanged from here:")
    lines += [f"  {name}={shown[name]}" for name in sorted(shown.keys() - added)]
    return "\n".join(lines)


def rank_0_environment(plan: LaunchPlan, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that rank 0 would get.

    What only a start can know stands there by name: RUN_ID, SCRATCH, and 0 for a free port.
    """
    number = next_number(plan.run.run_dir)
    settings = group_settings(
        plan,
        run_id=_RUN_ID,
        scratch=_SCRATCH,
        master_addr=plan.master_addr,
        master_port=plan.master_port,
        restart_count=0,
        attempt=None if plan.run.run_dir is None else number,
        start_dir=working_folder(),
        interface=interface_of_run(plan),
        log_folder=None if plan.log_dir is None else plan.log_dir / f"attempt-{number}",
    )
    world_size = plan.local_world_size * plan.nodes.num_max
    place = WorkerPlace(
        rank=0,
        local_rank=0,
        world_size=world_size,
        local_world_size=plan.local_world_size,
        group_rank=0,
        group_world_size=plan.nodes.num_max,
        role_rank=0,
        role_world_size=world_size,
        role_name=plan.role,
    )
    files = RankFiles.of(_SCRATCH / "restart-0", 0)
    return worker_environment(place, settings, files=files, inherited=environ)


def _plan(plan: LaunchPlan, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    nodes = plan.nodes
    words = mask_arguments(plan.program.command(environ), secrets_of(environ))
    yield "command", shlex.join(words)
    yield "ranks on this node", str(plan.local_world_size)
    if nodes.several:
        number = "as it arrives" if nodes.node_rank is None else str(nodes.node_rank)
        least = "" if nodes.num_min == nodes.num_max else f", at least {nodes.num_min}"
        yield "nodes", f"{nodes.num_max}{least}; this one is node {number}"
    yield "meeting at", f"{plan.master_addr}:{plan.master_port or 'a free port'}"
    if nodes.several:
        yield "messages between nodes", plan.secret.describe(nodes.run_id)
    yield "strategy", plan.run.strategy or ("auto" if plan.uses_run else "left to the script")
    yield "precision", plan.run.precision or "left to the script"
    yield "run folder", str(plan.run.run_dir or "left to the script")
    if plan.run.checkpoints is not None:
        yield "checkpoints", plan.run.checkpoints
    yield "logs", str(plan.log_dir or "none on disk")
    yield "restarts", f"at most {plan.max_restarts}"
    if plan.hang_timeout_s is not None:
        yield "hang timeout", f"{plan.hang_timeout_s:g} s"
    yield "grace", "until the ranks end" if plan.grace_s is None else f"{plan.grace_s:g} s"
