"""What came of a sweep, as a table; and whether there was a third outcome."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench_table import markdown_table

STRATEGIES = ("single", "ddp", "fsdp", "zero2")
MOST_APART = 2e-6
"""Of weights about 0.1 after six steps: the order of sums."""
TIMES_NOISE = 10
"""What decomposes matrices of few gradients amplifies their last bits: so many times what other
last bits have changed is allowed."""
_MOST_LETTERS = 160


def verdict_of(name: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what came of one optimizer.

    Args:
        name: of the optimizer.
        records: lines of all phases.
    """
    found: dict[str, Any] = {"optimizer": name, "wrong": [], "refused": {}, "differences": {}}
    noise = [r["noise"] for line in records for r in line.get("records", ()) if "noise" in r]
    found["noise"] = max(noise, default=0.0)
    for line in records:
        if "not made" in line:
            found["not made"] = line["not made"]
        if "failed" in line:
            found["wrong"].append(line["failed"])
        for record in line.get("records", ()):
            _take(found, record)
    return found


def _take(found: dict[str, Any], record: Mapping[str, Any]) -> None:
    strategy = record["strategy"]
    if "refused" in record:
        found["refused"][strategy] = record["refused"]
    if "refused after step 0" in record:
        found["wrong"].append(f"{strategy}: refused after step 0: {record['refused after step 0']}")
    for key, value in record.items():
        if key == "difference" or key.startswith("from "):
            largest = max(value, found["differences"].get(strategy, 0.0))
            found["differences"][strategy] = largest
            if not value <= max(MOST_APART, TIMES_NOISE * found["noise"]):
                found["wrong"].append(f"{strategy}: {key} {value:.1e}")


def is_wrong(verdict: Mapping[str, Any]) -> bool:
    """Whether it is neither the same everywhere nor refused before step 0."""
    seen = {*verdict["refused"], *verdict["differences"]}
    return bool(verdict["wrong"]) or ("not made" not in verdict and seen != set(STRATEGIES))


def table_of(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Return the whole table, and a line that counts."""
    rows = []
    for verdict in verdicts:
        if "not made" in verdict:
            cells = ["not made"] * len(STRATEGIES)
            why = verdict["not made"]
        else:
            cells = [_cell(verdict, strategy) for strategy in STRATEGIES]
            why = "; ".join(verdict["wrong"]) or next(iter(verdict["refused"].values()), "")
            if max(verdict["differences"].values(), default=0.0) > MOST_APART:
                last_bits = f"other last bits of gradients change {verdict['noise']:.1e}"
                why = f"{last_bits}; {_short(why)}" if why else last_bits
        rows.append([verdict["optimizer"], *cells, _short(why)])
    head = ["optimizer", *STRATEGIES, "why"]
    table = markdown_table(head, rows).replace("--: |\n", "--- |\n", 1)  # the reason is text
    return f"{table}\n\n{_counts(verdicts)}\n"


def _cell(verdict: Mapping[str, Any], strategy: str) -> str:
    if strategy in verdict["refused"]:
        return "refused"
    if strategy in verdict["differences"]:
        return f"{verdict['differences'][strategy]:.1e}"
    return "WRONG"


def _counts(verdicts: Sequence[Mapping[str, Any]]) -> str:
    made = [v for v in verdicts if "not made" not in v]
    everywhere = sum(not v["refused"] for v in made)
    nowhere = sum(len(v["refused"]) == len(STRATEGIES) for v in made)
    wrong = [v["optimizer"] for v in verdicts if is_wrong(v)]
    return (
        f"{len(verdicts)} optimizers: {everywhere} the same everywhere, "
        f"{len(made) - everywhere - nowhere} refused under some strategies, {nowhere} under all, "
        f"{len(verdicts) - len(made)} that cannot be made from parameters alone. "
        f"A third outcome: {', '.join(wrong) or 'none'}."
    )


def _short(text: str) -> str:
    """Return the part of a refusal that says why, on one line of a table."""
    plain = " ".join(text.split()).replace("|", "/")
    for begin in ("tried on small ones, ", "resumed, ", "like the model's, "):
        _, found, rest = plain.partition(begin)
        if found:
            plain = rest.partition(". Use ")[0]
            break
    return plain if len(plain) <= _MOST_LETTERS else f"{plain[:_MOST_LETTERS]}..."
