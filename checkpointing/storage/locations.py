"""Where checkpoints can be kept: a folder, or a URL that fsspec knows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from ..errors import PlaceError
from .commit_by_manifest import ByManifest
from .commit_by_rename import ByRename
from .commit_protocol import CommitProtocol
from .local_files import LOCAL_FILES, Files
from .object_files import ObjectFiles

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_LOCAL_PROTOCOLS = ("file", "local")
_EXTRA = "relaunch[objects]"


class ObjectPath(PurePosixPath):
    """A path below a URL; as text it is the URL again."""

    def __str__(self) -> str:
        protocol, colon, rest = super().__str__().partition(":/")
        # Of a local path the first slash belongs to it.
        slashes = ":///" if protocol in _LOCAL_PROTOCOLS else "://"
        return f"{protocol}{slashes}{rest}" if colon else protocol


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder and how it is reached."""

    folder: PurePath
    files: Files

    def __truediv__(self, name: str) -> "Place":
        return Place(folder=self.folder / name, files=self.files)


def is_url(text: str) -> bool:
    """Return whether a text is a URL and not a path."""
    return _URL.match(text) is not None


def place_at(text: str) -> Place:
    """Return the folder that a path or a URL means; nothing is asked of the store yet.

    Credentials and options come from fsspec's own configuration and its back end's, such as
    ~/.config/fsspec/*.json, FSSPEC_S3_ENDPOINT_URL and AWS_PROFILE.

    Raises:
        PlaceError: The URL is none that checkpoints can be kept at, or fsspec or its back end
            is not installed.
    """
    if not is_url(text):
        return Place(folder=Path(text), files=LOCAL_FILES)
    require_place(text)
    import fsspec

    protocol = text.partition("://")[0]
    try:
        filesystem = fsspec.filesystem(protocol, **_options(protocol))
    except (ImportError, ValueError) as error:
        raise PlaceError(f"{text}: {error}") from error
    files = ObjectFiles(filesystem, puts_whole=protocol not in _LOCAL_PROTOCOLS)
    return Place(folder=ObjectPath(text), files=files)


def require_place(text: str) -> None:
    """Refuse a path or URL at which no checkpoints can be kept; starts nothing.

    A process that will fork asks this: a file system of fsspec may begin a thread when it is made.

    Raises:
        PlaceError: See `place_at`.
    """
    if not is_url(text):
        return
    _require_sound(text)
    try:
        import fsspec
    except ImportError as error:
        raise PlaceError(f'{text} needs fsspec: pip install "{_EXTRA}".') from error
    try:
        fsspec.get_filesystem_class(text.partition("://")[0])
    except (ImportError, ValueError) as error:
        raise PlaceError(f"{text}: {error}") from error


def _require_sound(url: str) -> None:
    protocol, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    if ":" in host.rpartition("@")[0] or "?" in rest:
        # It would be written into the run's records, and the back end would not be given it.
        plain = f"{protocol}://{host.rpartition('@')[2]}/{path.partition('?')[0]}"
        raise PlaceError(
            f"a URL for checkpoints must hold no password and no query: write {plain}, and give "
            f"the credentials to fsspec, in the environment as FSSPEC_{protocol.upper()}_PASSWORD "
            "or in ~/.config/fsspec/conf.json."
        )
    if not rest.strip("/"):
        raise PlaceError(f"{url} names no place; write for example s3://bucket/run.")
    if protocol in _LOCAL_PROTOCOLS and not rest.startswith("/"):
        raise PlaceError(f"{url} is not absolute; write {protocol}:///folder, or a plain path.")
    if "::" in url or ".." in PurePosixPath(rest).parts:
        raise PlaceError(f'{url} is no plain URL: it must hold neither "::" nor "..".')


def _options(protocol: str) -> Mapping[str, Any]:
    # A listing that is kept would hide what other ranks and other runs have put.
    options = {"use_listings_cache": False, "skip_instance_cache": True}
    return options | ({"auto_mkdir": True} if protocol in _LOCAL_PROTOCOLS else {})


def publishing_of(folder: PurePath, files: Files) -> CommitProtocol:
    """Return how checkpoints are committed in a folder."""
    return (ByRename if files.renames_folders else ByManifest)(folder, files)
