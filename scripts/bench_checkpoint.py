"""What a checkpoint costs: relaunch beside a plain write and what others do, interleaved.

Two processes hold a sharded state each. Every round takes each method once, so that whatever else
the machine does hits all of them; the table has medians and the range of the middle half. The
parts are in `checkpoint_bench/`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from bench_table import load_average, machine
from checkpoint_bench.frozen import measure_frozen
from checkpoint_bench.results import place_table
from checkpoint_bench.simulate import simulate, simulate_one

WORLD = 2
TIMEOUT_S = 3600.0


def measure(where: str, folder: Path, mib: int, rounds: int) -> str:
    """Run the ranks in a folder and return a table."""
    port = 20000 + zlib.crc32(str(folder).encode()) % 20000
    command = [sys.executable, __file__, "--worker", str(folder)]
    ranks = [
        subprocess.Popen(
            [*command, f"--mib={mib}", f"--rounds={rounds}"],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(WORLD),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
                "PYTHONWARNINGS": "ignore",
            },
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in range(WORLD)
    ]
    taken: dict[str, dict[str, list[float]]] = {}
    assert ranks[0].stdout is not None
    for line in ranks[0].stdout:
        if not line.startswith('{"round"'):
            continue  # DeepSpeed talks on stdout
        found = json.loads(line)
        print(f"{where}: {line.strip()}", file=sys.stderr)
        number, name = found.pop("round"), found.pop("name")
        if number or "extra_memory" in found:
            for key, value in found.items():
                taken.setdefault(name, {}).setdefault(key, []).append(value)
    codes = [rank.wait(timeout=TIMEOUT_S) for rank in ranks]
    if any(codes):
        raise SystemExit(f"the ranks ended with {codes}")
    return place_table(where, taken)


def measure_places(places: dict[str, Path], mib: int, rounds: int) -> str:
    """Measure in a new folder of each place; return what is to be printed."""
    before = load_average()
    tables = []
    for where, place in places.items():
        with tempfile.TemporaryDirectory(prefix="bench-checkpoint-", dir=place) as folder:
            tables.append(measure(where, Path(folder), mib, rounds))
    return (
        f"{machine('torch', 'deepspeed')} {before} {WORLD} ranks of one thread, {mib} MiB each; "
        f"medians of {rounds} interleaved rounds (in brackets the middle half). Extra memory is "
        "that of the first save, in copies of the state, with every process that was started.\n\n"
        + "\n".join(tables)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=256, help="of each of the two ranks")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--save", type=Path, help="also write the tables to this file")
    parser.add_argument("--simulate", action="store_true", help="1,024 ranks, 100e9 parameters")
    parser.add_argument(
        "--frozen", action="store_true", help="a run that trains 0.2 %% of a base of --mib"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--simulate-one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        from checkpoint_bench.rank import run_rank

        run_rank(given.worker, given.mib, given.rounds)
        return
    if given.simulate_one is not None:
        layout, world = given.simulate_one
        print(json.dumps(simulate_one(layout, int(world))))
        return
    if given.simulate:
        result = f"{machine()} {load_average()}\n\n{simulate(__file__)}"
    elif given.frozen:
        with tempfile.TemporaryDirectory(prefix="bench-checkpoint-", dir=given.disk) as folder:
            table = measure_frozen(Path(folder), given.mib, given.rounds)
        result = f"{machine('torch')} {load_average()}\n\n{table}"
    else:
        places = {"disk": given.disk, "tmpfs": given.tmpfs}
        result = measure_places(places, given.mib, given.rounds)
    print(result)
    if given.save is not None:
        given.save.write_text(result)


if __name__ == "__main__":
    main()
