"""From measurements to one line each: ok, warning, failure or skipped. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from ...plan.open_files import MIN_OPEN_FILES
from ...run_folder.tables import plural, size_text
from .facts import FolderFacts, GpuFacts, JobTime, NodeFacts, RanksFacts


class Level(StrEnum):
    """How a line is meant."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    LEFT_OUT = "left out"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of the report."""

    name: str
    level: Level
    text: str
    remedy: str = ""


_THROTTLING = {
    0x08: "the hardware slows it down",
    0x20: "it is too hot (software)",
    0x40: "it is too hot (hardware)",
    0x80: "the power supply slows it down",
}
"""Bits of the driver's reasons for a lower clock; idleness and set limits are no trouble."""
_IDLE_GPU_BYTES = 2 << 30
"""Drivers and their daemons take less."""
_FEW_SHARED_BYTES = 1 << 30
_FEW_FILES = 1024
_PROCESSES_OF_RANK = 32
"""A rank, its loader workers and writer, and their threads."""
_MUCH_SKEW_S = 1.0
_SLOW_PAIR = 0.25
"""Of the median pair."""
_SLOW_DISK_BYTES_PER_S = 50e6
MODEL_BYTES = 10**9
"""Of a save, where nothing is known of the model."""


def ok(name: str, text: str) -> Finding:
    """Return a line in which all is well."""
    return Finding(name=name, level=Level.OK, text=text)


def warning(name: str, text: str, remedy: str) -> Finding:
    """Return a line that a run may survive."""
    return Finding(name=name, level=Level.WARNING, text=text, remedy=remedy)


def failure(name: str, text: str, remedy: str) -> Finding:
    """Return a line that a run does not survive."""
    return Finding(name=name, level=Level.FAILURE, text=text, remedy=remedy)


def left_out(name: str, why: str) -> Finding:
    """Return a line that was not looked at."""
    return Finding(name=name, level=Level.LEFT_OUT, text=why)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 1 where anything has failed, else 0."""
    return int(any(one.level is Level.FAILURE for one in findings))


def versions(nodes: Sequence[NodeFacts]) -> Finding:
    """Judge whether all nodes have the same versions."""
    first = nodes[0]
    for name in first.versions:
        others = {node.host: node.versions.get(name) for node in nodes}
        if len(set(others.values())) > 1:
            shown = ", ".join(f"{found or 'none'} on {host}" for host, found in others.items())
            return failure(
                "versions", f"{name}: {shown}", "Start every node from the same environment."
            )
    if first.versions.get("torch") is None:
        return failure(
            "versions", "torch is not installed", "Install it, or start from its environment."
        )
    found = [f"{name} {value}" for name, value in first.versions.items() if value is not None]
    return ok("versions", ", ".join(found))


def gpus(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Judge the GPUs of all nodes: errors of memory, throttling, other processes."""
    hidden = [
        left_out("gpus", f"{node.left_out['gpus']} on {node.host}")
        for node in nodes
        if "gpus" in node.left_out
    ]
    shown = [node for node in nodes if "gpus" not in node.left_out]
    return [*hidden, *(_gpus_shown(shown) if shown else ())]


def _gpus_shown(nodes: Sequence[NodeFacts]) -> list[Finding]:
    if not any(node.gpus for node in nodes):
        return [ok("gpus", "none: ranks run on CPUs")]
    counts = {node.host: len(node.gpus) for node in nodes}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{count} on {host}" for host, count in counts.items())
        return [
            warning(
                "gpus", f"the number differs between nodes: {shown}", "Ask for nodes of one kind."
            )
        ]
    every = [(node.host, gpu) for node in nodes for gpu in node.gpus]
    found = [one for host, gpu in every for one in _gpu(host, gpu)]
    unknown = sorted({name for _, gpu in every for name in _unknown(gpu)})
    if unknown:
        found.append(left_out("gpus", f"the driver does not show: {', '.join(unknown)}"))
    name = every[0][1].name
    return found or [ok("gpus", f"{plural(len(every), 'GPU')} ({name}), idle and without errors")]


def _gpu(host: str, gpu: GpuFacts) -> Iterable[Finding]:
    which = f"GPU {gpu.index} on {host}"
    if gpu.uncorrected_errors:
        yield failure(
            "gpus",
            f"{which}: {gpu.uncorrected_errors} uncorrected memory errors",
            f"Leave it out (CUDA_VISIBLE_DEVICES), reset it, and have it inspected: {gpu.uuid}.",
        )
    why = [text for bit, text in _THROTTLING.items() if (gpu.throttle_mask or 0) & bit]
    if why:
        hot = "" if gpu.temperature_c is None else f" at {gpu.temperature_c} degrees C"
        yield warning(
            "gpus",
            f"{which} is throttled{hot}: {', '.join(why)}",
            "Every rank waits for the slowest. Leave it out, or have its cooling checked.",
        )
    if gpu.pids:
        shown = ", ".join(map(str, gpu.pids))
        yield warning(
            "gpus",
            f"{which}: other processes compute on it: {shown}",
            "End them if they are yours (a former run?), or choose other GPUs.",
        )
    elif gpu.used_bytes is not None and gpu.used_bytes > _IDLE_GPU_BYTES:
        used = size_text(gpu.used_bytes)
        total = "" if gpu.total_bytes is None else f" of {size_text(gpu.total_bytes)}"
        yield warning(
            "gpus",
            f"{which}: {used}{total} of its memory are in use, by no process that is seen here",
            "Look on the host, outside of this container, for a former run, or choose other GPUs.",
        )


def _unknown(gpu: GpuFacts) -> Iterable[str]:
    if gpu.uncorrected_errors is None:
        yield "ECC errors"
    if gpu.throttle_mask is None:
        yield "throttling"
    if gpu.pids is None:
        yield "other processes"


def ranks(found: RanksFacts | None, problem: str) -> list[Finding]:
    """Judge what the ranks found together: all-reduce, the slowest pair, the clocks."""
    if found is None:
        return [
            failure(
                "all-reduce",
                f"the ranks did not come together: {problem}",
                "Look at the interfaces below; NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME choose "
                "one.",
            )
        ]
    speed = f"{size_text(int(found.all_reduce_bytes_per_s))}/s"
    text = f"{plural(found.world_size, 'rank')} with {found.backend}: {speed}"
    return [ok("all-reduce", text), *_pairs(found), *_clocks(found)]


def _pairs(found: RanksFacts) -> list[Finding]:
    if not found.pairs:
        return []
    slowest = min(found.pairs, key=lambda pair: pair.bytes_per_s)
    usual = median(pair.bytes_per_s for pair in found.pairs)
    who = (
        f"rank {slowest.left} ({found.hosts[slowest.left]}) and "
        f"rank {slowest.right} ({found.hosts[slowest.right]})"
    )
    speed = f"{size_text(int(slowest.bytes_per_s))}/s"
    if slowest.bytes_per_s < _SLOW_PAIR * usual:
        text = f"{who}: {speed}, where the median is {size_text(int(usual))}/s"
        remedy = "Look at the cable, switch or interface between these two, or leave one node out."
        return [warning("slowest pair", text, remedy)]
    return [ok("slowest pair", f"{who}: {speed}")]


def _clocks(found: RanksFacts) -> list[Finding]:
    if len(set(found.hosts)) < 2:
        return []
    text = f"{found.clock_skew_s:.3f} s between the nodes"
    if found.clock_skew_s > _MUCH_SKEW_S:
        remedy = "Start chrony or ntpd: deadlines of notices and times in records are compared."
        return [warning("clocks", text, remedy)]
    return [ok("clocks", text)]


def folder(found: FolderFacts, save_bytes: int | None) -> list[Finding]:
    """Judge the run folder: speed, room, locks and renames."""
    if found.problem:
        text = f"{found.path}: {found.problem}"
        return [failure("disk", text, "Pass --run-dir DIR, where this user may write.")]
    speed, size = found.write_bytes_per_s or 0.0, save_bytes or MODEL_BYTES
    seconds = save_s(found, size)
    text = f"{size_text(int(speed))}/s; a save of {size_text(size)} takes about {seconds:.1f} s"
    lines = [ok("disk", text)]
    if speed < _SLOW_DISK_BYTES_PER_S:
        remedy = 'Save less often (save_every="auto"), or keep runs on a faster file system.'
        lines = [warning("disk", text, remedy)]
    if found.free_bytes is not None and found.free_bytes < 2 * size:
        lines.append(
            failure(
                "room",
                f"{size_text(found.free_bytes)} are free; two saves need {size_text(2 * size)}",
                "Make room, or pass another --run-dir.",
            )
        )
    if found.locks is False:
        lines.append(
            warning(
                "locks",
                "this file system has no locks: two runs could write one run folder",
                "Give each run its own folder, or mount it with locks.",
            )
        )
    if found.renames is False:
        lines.append(
            failure(
                "renames",
                "a folder that was renamed is not found under its new name alone",
                "Keep checkpoints on another file system: a save counts by its rename.",
            )
        )
    if found.locks and found.renames:
        lines.append(ok("locks and renames", "work"))
    return lines


def save_s(found: FolderFacts, size_bytes: int) -> float:
    """Return how long a save of so many bytes takes."""
    return size_bytes / max(found.write_bytes_per_s or 0.0, 1.0)


def limits(
    nodes: Sequence[NodeFacts], ranks_per_node: int, save_bytes: int | None
) -> list[Finding]:
    """Judge shared memory, open files and processes of every node."""
    return [
        *_worst(_shared_memory(node, save_bytes) for node in nodes),
        *_worst(_open_files(node) for node in nodes),
        *_worst(_processes(node, ranks_per_node) for node in nodes),
    ]


_ORDER = (Level.FAILURE, Level.WARNING, Level.LEFT_OUT, Level.OK)


def _worst(found: Iterable[Finding]) -> list[Finding]:
    """Return the worst line; of many nodes one is enough."""
    return sorted(found, key=lambda one: _ORDER.index(one.level))[:1]


def _shared_memory(node: NodeFacts, save_bytes: int | None) -> Finding:
    name, free = "shared memory", node.shared_memory_free_bytes
    if free is None:
        return left_out(name, node.left_out.get(name, f"/dev/shm is not there on {node.host}"))
    needed = save_bytes or _FEW_SHARED_BYTES
    text = f"{size_text(free)} free on {node.host}"
    if free < needed:
        remedy = (
            "Loader workers and saves share memory there. In a container pass --shm-size, or mount "
            "a larger /dev/shm."
        )
        return warning(name, f"{text}; {size_text(needed)} may be needed", remedy)
    return ok(name, text)


def _open_files(node: NodeFacts) -> Finding:
    limit = node.open_files
    if limit is None or limit >= _FEW_FILES:
        shown = "no limit" if limit is None else f"a process may open {limit}"
        return ok("open files", f"{shown} on {node.host}")
    text = f"a process may open {limit} on {node.host}"
    remedy = f"ulimit -n {_FEW_FILES * 16}"
    return (failure if limit < MIN_OPEN_FILES else warning)("open files", text, remedy)


def _processes(node: NodeFacts, ranks_per_node: int) -> Finding:
    left, needed = node.processes_left, _PROCESSES_OF_RANK * ranks_per_node
    if left is None and (why := node.left_out.get("processes")):
        return left_out("processes", f"{why} on {node.host}")
    if left is None:
        return ok("processes", f"no limit on {node.host}")
    text = f"{left} more may be started on {node.host}"
    if left < needed:
        remedy = "Raise pids.max of the container or job, or ulimit -u; threads count too."
        return warning("processes", f"{text}; {ranks_per_node} ranks may need {needed}", remedy)
    return ok("processes", text)


def network(
    nodes: Sequence[NodeFacts], *, several: bool, port: int, port_is_free: bool
) -> list[Finding]:
    """Judge interfaces, the host's own name, and the port where nodes meet."""
    found = []
    for node in nodes:
        if several and not node.interfaces:
            found.append(
                failure("network", f"{node.host} has only its loopback", "Connect the node.")
            )
        elif several and (node.address or "127.").startswith("127."):
            text = f"{node.host} stands for {node.address or 'no address'} on itself"
            remedy = "Correct /etc/hosts, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME."
            found.append(warning("network", text, remedy))
    if several and not port_is_free:
        remedy = "Pass --master-port with another number to every node."
        found.append(warning("network", f"port {port} is taken here", remedy))
    shown = ", ".join(nodes[0].interfaces) or "none except the loopback"
    return found or [ok("network", f"interfaces: {shown}")]


def job_time(job: JobTime | None, save_time_s: float) -> list[Finding]:
    """Judge the time limit and the preemption of a batch job against the time of a save."""
    if job is None:
        return [ok("time limit", "no batch job")]
    if job.problem:
        return [left_out("time limit", job.problem)]
    left = "no limit" if job.left_s is None else f"{job.left_s:.0f} s left"
    found = [ok("time limit", left)]
    if job.left_s is not None and job.left_s < 2 * save_time_s:
        text = f"{left}, and a save takes {save_time_s:.1f} s"
        found = [warning("time limit", text, "Ask for more time (--time).")]
    grace_s = job.kill_wait_s if job.grace_s is None else job.grace_s
    if grace_s is not None:
        text = f"{grace_s:g} s from the notice to the kill; a save takes {save_time_s:.1f} s"
        if grace_s < save_time_s:
            remedy = (
                "A preemption may lose the steps since the last save: save more often "
                '(save_every="5 min"), or have GraceTime of the partition raised.'
            )
            found.append(warning("preemption", text, remedy))
        else:
            found.append(ok("preemption", text))
    if not job.may_requeue:
        remedy = "Submit with --requeue, or start the same command again yourself."
        found.append(warning("requeue", "the job may not be requeued", remedy))
    return found


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return the report: one line each, with the remedy below where there is one."""
    width = max(len(one.name) for one in findings)
    shown = []
    for one in findings:
        shown.append(f"{one.level:<8}  {one.name:<{width}}  {one.text}")
        if one.remedy:
            shown.append(f"{'':<8}  {'':<{width}}  {one.remedy}")
    return shown


def document(findings: Sequence[Finding]) -> Mapping[str, object]:
    """Return the report for --json."""
    return {
        "findings": [
            {"name": f.name, "level": str(f.level), "text": f.text, "remedy": f.remedy}
            for f in findings
        ],
        "exit_code": exit_code(findings),
    }
