"""Check and measure relaunch on one GPU: independent steps, each in a process of its own.

After each step `gpu_check.json` and `gpu_check.md` are written anew, so that a machine that is
taken away leaves what was found. With --allow-cpu every step runs on the CPU with tiny sizes: that
it runs is what this proves, and no number of it means anything.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BUDGETS_S = {
    "facts": 15,
    "worlds": 50,
    "speed": 95,
    "checkpoint": 60,
    "two_ranks": 55,
    "endings": 60,
    "auto": 25,
    "fp16": 15,
    "zero": 55,
    "marked": 40,
}
"""The most that each step may take, in the order in which they run."""
DEADLINE_S = 470
_CPU_FACTOR = 4
"""A busy machine of CI takes longer over tiny sizes than a GPU over large ones."""


def main() -> int:
    given = parse()
    given.out.mkdir(parents=True, exist_ok=True)
    names = list(BUDGETS_S) if given.only is None else given.only.split(",")
    unknown = [name for name in names if name not in BUDGETS_S]
    if unknown:
        print(f"gpu_check: no step {', '.join(unknown)}; there are {', '.join(BUDGETS_S)}.")
        return 2
    if not given.allow_cpu and not has_gpu():
        print("gpu_check: torch sees no GPU here. Pass --allow-cpu to try the steps without one.")
        return 2
    factor = _CPU_FACTOR if given.allow_cpu else 1
    until_s = time.monotonic() + given.deadline * factor
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        found[name] = run_step(name, given, until_s - time.monotonic(), BUDGETS_S[name] * factor)
        write(given.out, found)
    print(table(found))
    return int(any(one["pass"] is False for facts in found.values() for one in facts))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="default: gpu_check")
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, metavar="S")
    parser.add_argument("--only", metavar="STEP,...", help=", ".join(BUDGETS_S))
    parser.add_argument("--allow-cpu", action="store_true")
    return parser.parse_args()


def has_gpu() -> bool:
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def run_step(
    name: str, given: argparse.Namespace, left_s: float, budget_s: float
) -> list[dict[str, Any]]:
    """Run one step; return its facts, whatever becomes of it."""
    if budget_s > left_s:
        return [fact("skipped", f"{left_s:.0f} s left, {budget_s:.0f} needed")]
    out = (given.out / name).absolute()
    out.mkdir(exist_ok=True)
    facts, log = out / "facts.jsonl", out / "log"
    facts.unlink(missing_ok=True)
    environ = {**os.environ, "GPU_CHECK_OUT": str(out)}
    if given.allow_cpu:
        environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    began_s = time.monotonic()
    with log.open("wb") as printed:
        child = subprocess.Popen(
            [sys.executable, "-u", f"scripts/gpu_steps/{name}.py"],
            stdout=printed,
            stderr=printed,
            env=environ,
            start_new_session=True,
        )
        try:
            code: int | None = child.wait(budget_s)
        except subprocess.TimeoutExpired:
            code = None
        end(child)
    lines = facts.read_text().splitlines() if facts.exists() else []
    told = [json.loads(line) for line in lines]
    told.append(fact("seconds", round(time.monotonic() - began_s, 1), "s"))
    if code is None:
        told.append(fact("ended", f"not within {budget_s:.0f} s; see {log}", passed=False))
    elif code:
        told.append(fact("ended", f"code {code}; see {log}", passed=False))
    return told


def end(child: "subprocess.Popen[bytes]") -> None:
    """End the step and what it has started; launchers have sessions of their own, and guardians
    that end theirs once this one's are gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def fact(
    what: str, value: object, unit: str = "", *, passed: bool | None = None, target: str = ""
) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, "pass": passed, "target": target}


def write(out: Path, found: dict[str, list[dict[str, Any]]]) -> None:
    (out / "gpu_check.json").write_text(json.dumps(found, indent=1))
    (out / "gpu_check.md").write_text(table(found) + "\n")


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return all facts as one Markdown table."""
    lines = ["| step | what | value | target | |", "| --- | --- | --: | --: | --- |"]
    words = {True: "ok", False: "**not ok**", None: ""}
    for name, facts in found.items():
        for one in facts:
            value = one["value"]
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            row = (name, one["what"], f"{shown} {one['unit']}".strip(), one["target"])
            lines.append(f"| {' | '.join(map(str, row))} | {words[one['pass']]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
