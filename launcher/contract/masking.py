"""Secrets of the environment, kept out of everything that is printed or written."""

import re
from collections.abc import Mapping, Sequence

MASK = "***"

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH|COOKIE|PRIVATE|"
    r"(^|_)(API_?|ACCESS_?|ACCOUNT_?|SECRET_?|SSH_?|ENCRYPTION_?)?KEYS?(_|$|\d)|APIKEY|"
    r"(^|_)(PWD|PASS|PIN|DSN|SAS|CONNECTION_STRING)(_|$)"
)
_NO_SECRET = frozenset({"PWD", "OLDPWD", "SSH_AUTH_SOCK", "XAUTHORITY", "TOKENIZERS_PARALLELISM"})
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SHORTEST = 4
"""A shorter value, such as 1, is found in too many texts that are not meant."""


def is_secret(name: str) -> bool:
    """Tell from a variable's name whether its value is nobody's business."""
    return name.upper() not in _NO_SECRET and _SECRET_NAME.search(name.upper()) is not None


def mask_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with its secrets masked, also where another value repeats one."""
    secrets = secrets_of(environ)
    return {
        name: MASK if is_secret(name) and value else mask_text(value, secrets)
        for name, value in environ.items()
    }


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values that must not be shown, the longest first."""
    found = {
        value for name, value in environ.items() if is_secret(name) and len(value) >= _SHORTEST
    }
    return tuple(sorted(found, key=len, reverse=True))


def mask_text(text: str, secrets: Sequence[str]) -> str:
    """Return a text without the secrets and without the user and password of a URL."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return _USER_IN_URL.sub(MASK, text)
