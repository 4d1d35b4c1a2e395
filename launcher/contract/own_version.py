"""Which relaunch this is."""


def own_version(otherwise: str) -> str:
    """Return the installed version.

    Args:
        otherwise: What to return for a source tree that is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version  # not for every start

    try:
        return version("relaunch")
    except PackageNotFoundError:
        return otherwise
