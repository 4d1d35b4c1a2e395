"""Options that follow from a job, beside those that a person gave; pure."""

from collections.abc import Mapping
from dataclasses import replace

from ..errors import UsageError
from ..plan import option_types as values
from ..plan.given_options import Given, Words


def with_options(words: Words, more: Mapping[str, str], source: str) -> Words:
    """Return the words with more options; what was given stays.

    Args:
        words: As given.
        more: Their texts, by name.
        source: Where they come from, for messages: `Grid Engine job 7`.
    """
    added = {
        name: Given(text=text, spelled=f"{name} {text} (of {source})")
        for name, text in more.items()
        if name not in words.given
    }
    return replace(words, given={**words.given, **added})


def node_options(rank: int, num_nodes: int, addr: str, port: int) -> dict[str, str]:
    """Return the options that say where a node stands among several."""
    return {
        "--nnodes": str(num_nodes),
        "--node-rank": str(rank),
        "--master-addr": addr,
        "--master-port": str(port),
    }


def check_nodes(words: Words, num_hosts: int, source: str, remedy: str) -> None:
    """Compare the number of nodes that was asked for with the job's.

    Args:
        words: As given.
        num_hosts: Of the job.
        source: The job, for the message.
        remedy: What to write to get another number of hosts.

    Raises:
        UsageError: They contradict each other.
    """
    if (nnodes := words.given.get("--nnodes")) is None:
        return
    least, most = values.nnodes(nnodes)
    if not least <= num_hosts <= most:
        count = "1 host" if num_hosts == 1 else f"{num_hosts} hosts"
        raise UsageError(
            f"{nnodes.spelled}, but {source} has {count}. Leave --nnodes out: it comes from the "
            f"job. {remedy}"
        )
