"""Whether a rank may be forked from the fork server: pure functions that return why not."""

from collections.abc import Collection, Mapping

_READ_LATE = frozenset(
    {
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
        *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE"),
        *("MASTER_ADDR", "MASTER_PORT", "TP_SOCKET_IFNAME"),
        *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    }
)
"""Variables that nothing reads while torch is imported, so that each rank may have its own."""

_READ_LATE_PREFIXES = ("TORCHELASTIC_", "RELAUNCH_", "NCCL_", "TORCH_NCCL_", "GLOO_", "TORCH_FR_")


def other_variables(wanted: Mapping[str, str], at_import: Mapping[str, str]) -> str | None:
    """Compare a rank's variables with those under which torch was imported.

    A variable that may be read at import (OMP_NUM_THREADS, MKL_*, KMP_*, TORCH_LOGS, ...) has had
    its effect in the server already; which ones those are only their readers know.
    """
    different = sorted(
        name
        for name in wanted.keys() | at_import.keys()
        if wanted.get(name) != at_import.get(name)
        and name not in _READ_LATE
        and not name.startswith(_READ_LATE_PREFIXES)
    )
    if not different:
        return None
    names = ", ".join(different)
    return f"{names} may be read while torch is imported, and are not the same for every rank"


def shadowed_modules(
    beside: Collection[str], loaded: Mapping[str, str | None], folder: str
) -> str | None:
    """Look for modules beside the script that Python would take in place of loaded ones.

    Args:
        beside: Names of the modules and packages in the script's folder.
        loaded: Top-level modules that are loaded, to their files.
        folder: The script's folder, with a separator at its end.
    """
    shadows = sorted(
        name
        for name in beside
        if (file := loaded.get(name)) is not None and not file.startswith(folder)
    )
    if not shadows:
        return None
    return f"{', '.join(shadows)} beside the script would be imported in place of what is loaded"


def module_names(files: Collection[str], packages: Collection[str]) -> frozenset[str]:
    """Return the names under which Python imports a folder's files and regular packages."""
    suffixes = (".py", ".so", ".pyc")
    return frozenset(name.partition(".")[0] for name in files if name.endswith(suffixes)) | (
        frozenset(packages)
    )
