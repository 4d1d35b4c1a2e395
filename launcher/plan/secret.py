"""The secret that the nodes of a run share: read here, shown nowhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..contract.environment import SECRET
from ..errors import UsageError

MIN_CHARS = 16
"""A shorter one could be guessed from one recorded message."""
MAX_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class RunSecret:
    """What binds the nodes' messages to this run, and where it came from."""

    value: bytes = field(default=b"", repr=False)
    """Empty: there is none, and the run's id alone tells runs apart."""
    source: str = ""
    """The option or variable that gave it."""

    def describe(self, run_id: str | None) -> str:
        """Return what `--dry-run` says of it."""
        if self.value:
            return f"carry the secret of {self.source}"
        name = f"--rdzv-id {run_id}" if run_id else "the default --rdzv-id"
        return f"carry no secret, only {name}"


def read_secret(file: Path | None, environ: Mapping[str, str]) -> RunSecret:
    """Return the secret of `--secret-file`, else that of RELAUNCH_SECRET, else none.

    Raises:
        UsageError: The file cannot be read, or the secret is too short to be one.
    """
    if file is not None:
        source = f"--secret-file {file}"
        try:
            with file.open("rb") as opened:
                value = opened.read(MAX_BYTES).strip()
        except OSError as error:
            raise UsageError(f"{source} cannot be read: {error.strerror}.") from None
    else:
        source, value = SECRET, environ.get(SECRET, "").strip().encode(errors="surrogateescape")
        if not value:
            return RunSecret()
    if len(value) < MIN_CHARS:
        raise UsageError(
            f"the secret of {source} has {len(value)} characters, and needs {MIN_CHARS} or more. "
            "Make one with: openssl rand -hex 32"
        )
    return RunSecret(value=value, source=source)


def unbound_text(run_id: str | None, place: str) -> str:
    """Return what is said once where several nodes share no secret."""
    name = f"--rdzv-id {run_id}" if run_id else "the default --rdzv-id"
    return (
        f"the nodes share no secret: who reaches {place} and knows {name} can speak for a node. "
        f"Give all nodes the same {SECRET} in the environment, or --secret-file FILE."
    )
