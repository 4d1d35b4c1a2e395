"""Where a run is kept: asked on the command line, in the script, or runs/<the script's name>."""

from __future__ import annotations

import sys
from pathlib import Path

from strategies import HostCommunicator, Ranks

from ...contract.environment import RankEnvironment
from ...contract.files.run_dir_file import tell_folder, working_folder

_IMPORTED_IN = working_folder()
"""Where the script was started, before it went elsewhere: its runs are kept here, unless it says
otherwise, so that the same command finds them."""


def run_path(environment: RankEnvironment, run_dir: str | Path | None) -> Path:
    """Return the run folder: asked on the command line, in the script, or runs/<its name>."""
    began_in = environment.start_dir or _IMPORTED_IN or Path()
    usual = began_in / "runs" / Path(sys.argv[0]).stem
    path = environment.run.run_dir or (usual if run_dir is None else Path(run_dir))
    return path.absolute()  # the script may go elsewhere


def path_of_coordinator(path: Path, environment: RankEnvironment, ranks: Ranks) -> Path:
    """Return the coordinator's run folder: nodes may have been started in different folders."""
    found = Path(str(HostCommunicator(ranks).broadcast(str(path))))
    tell_folder(environment.folder_file, found)
    return found
