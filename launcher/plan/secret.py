"""The secret that the nodes of a run share: read here, shown nowhere."""

import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..contract.environment import SECRET
from ..errors import UsageError

MIN_CHARS = 16
"""A shorter one could be guessed from one recorded message."""
MAX_BYTES = 4096
_MAKE = "(umask 077; openssl rand -hex 32 > {})"
"""A line for a shell: a file with a secret that only its owner can read."""


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
        UsageError: The file cannot be read, others can read it too, or the secret is too short to
            be one.
    """
    if file is not None:
        source = f"--secret-file {file}"
        try:
            with file.open("rb") as opened:
                _require_own(file, opened)
                value = opened.read(MAX_BYTES).strip()
        except OSError as error:
            raise UsageError(f"{source} cannot be read: {error.strerror}.") from None
    else:
        source, value = SECRET, _given(environ).encode(errors="surrogateescape")
        if not value:
            return RunSecret()
    if len(value) < MIN_CHARS:
        place = "FILE" if file is None else shlex.quote(str(file))
        raise UsageError(
            f"the secret of {source} has {len(value)} characters, and needs {MIN_CHARS} or more. "
            f"Make one with: {_MAKE.format(place)}"
        )
    return RunSecret(value=value, source=source)


def with_secret(environ: Mapping[str, str], made: str) -> dict[str, str]:
    """Return the environment with a secret: the one that it holds, else the one made for it."""
    return {**environ, SECRET: _given(environ) or made}


def _given(environ: Mapping[str, str]) -> str:
    return environ.get(SECRET, "").strip()


def _require_own(file: Path, opened: BinaryIO) -> None:
    """Refuse a file that other users can read or write: what it holds is no secret.

    A pipe, such as `--secret-file <(pass show relaunch)`, is its maker's alone.

    Raises:
        UsageError: It is one.
    """
    found = os.fstat(opened.fileno())
    if not stat.S_ISREG(found.st_mode):
        return
    mode, path = stat.S_IMODE(found.st_mode), shlex.quote(str(file))
    if mode & 0o077:
        raise UsageError(
            f"--secret-file {file} can be read or written by others (mode {mode:04o}): its secret "
            "may be known. Make a new one with: "
            f"rm {path}; {_MAKE.format(path)}"
        )


def unbound_text(run_id: str | None, place: str) -> str:
    """Return what is said once where several nodes share no secret."""
    name = f"--rdzv-id {run_id}" if run_id else "the default --rdzv-id"
    return (
        f"the nodes share no secret: anyone who reaches {place} and knows {name} can send "
        "messages as a node. "
        f"Give all nodes the same {SECRET} in the environment, or --secret-file FILE."
    )
