"""A start inside a job of PBS (OpenPBS, Torque), from its environment and node file.

Nothing here has run on a real PBS. The user starts one launcher on each node.
"""

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..agent.cluster import ClusterEnvironment, is_by_hand
from ..agent.master_address import find_address
from ..errors import UsageError
from ..plan.given_options import Words
from .given import check_nodes, node_options, with_options

NODE_FILE = "PBS_NODEFILE"


def find(
    environ: Mapping[str, str], argv: Sequence[str], say: Callable[[str], None]
) -> ClusterEnvironment:
    """Return this process's place in its job."""
    return PbsEnvironment(environ["PBS_JOBID"], environ[NODE_FILE], socket.gethostname())


class PbsEnvironment(ClusterEnvironment):
    """What PBS adds: the nodes, and where they meet."""

    def __init__(self, job: str, path: str, host: str) -> None:
        self._job, self._path, self._host = job, path, host

    def supply(self, words: Words) -> Words:
        """See ClusterEnvironment."""
        if is_by_hand(words):
            return words
        try:
            text = Path(self._path).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UsageError(
                f"{NODE_FILE}={self._path} cannot be read here ({error.strerror}): job {self._job} "
                "of PBS is over and its variables are left over in this shell, or its node file is "
                f"on its first node only. Outside of the job write: env -u {NODE_FILE} relaunch "
                "...; inside, pass --nnodes, --node-rank and --master-addr."
            ) from None
        hosts = tuple(dict.fromkeys(text.split()))
        source = f"PBS job {self._job}"
        check_nodes(words, max(1, len(hosts)), source, "Ask for nodes with: qsub -l select=N")
        more = {"--rdzv-id": self._job}
        if len(hosts) > 1:
            rank = rank_of(self._host, hosts, source)
            addr = words.text("--master-addr") or find_address(
                hosts, is_first=rank == 0, node_addr=lambda name: None
            )
            more |= node_options(rank, len(hosts), addr, port_of(self._job))
        return with_options(words, more, source)

    def describe(self) -> tuple[str, ...]:
        """See ClusterEnvironment."""
        return (f"PBS job {self._job}",)


def rank_of(host: str, hosts: Sequence[str], source: str) -> int:
    """Return the place of a machine among the hosts, by its full or short name; pure.

    Raises:
        UsageError: It is none of them.
    """
    for name in (host, host.partition(".")[0]):
        short = [known.partition(".")[0] for known in hosts]
        for names in (hosts, short):
            if name in names:
                return list(names).index(name)
    raise UsageError(
        f"{source} runs on {', '.join(hosts)}, and {host} is none of them: its variables are left "
        f"over in this shell. Outside of the job write: env -u {NODE_FILE} relaunch ..."
    )


def port_of(job: str) -> int:
    """Return where the nodes of a job meet; pure: `12[3].server` and `13.server` differ."""
    number, _, element = re.sub(r"[^0-9]+", " ", job.partition(".")[0]).strip().partition(" ")
    return 20000 + (int(number or 0) * 7 + int(element or 0)) % 10000
