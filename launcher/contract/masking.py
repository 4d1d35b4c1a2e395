"""What is shown of settings, arguments and variables: everything but their secrets.

Console, run.json, report.md, TensorBoard and every tracker show what `mask_description` returns;
`--dry-run` shows `mask_environment` and `mask_arguments`. All go by the same names and by the same
values.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MASK = "***"
ARGUMENTS = "arguments"
"""The key of a description under which a script's arguments stand, word by word."""

_NAME_PARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
"""Where `hub.apiToken`, `X-Amz-Signature` and `api_token` have a word's end."""
_SECRET_NAME = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH(?!OR(S|ED|_|$))|COOKIE|PRIVATE|"
    r"(^|_)(API_?|ACCESS_?|ACCOUNT_?|SECRET_?|SSH_?|ENCRYPTION_?)?KEYS?(_|$|\d)|APIKEY|"
    r"(^|_)(PWD|PASS|PIN|DSN|SAS|CONNECTION_STRING|PAT|JWT|BEARER|SIG|SIGNATURE)(_|$)|"
    r"(^|_)(WEBHOOK|SASURL)|HEADERS?(_|$)"
)
_NO_SECRET = re.compile(
    # Paths and switches of a shell's, and what language models have tokens for.
    r"(OLD)?PWD|SSH_AUTH_SOCK|XAUTHORITY|(.*_)?PIN_MEMORY|"
    r"(.*_)?(PAD|EOS|BOS|UNK|SEP|CLS|MASK|SPECIAL|STOP|IMAGE|PER)_TOKENS?"
)
_PASSWORD_NAME = re.compile(r"PASSW|PASSPHRASE|(^|_)(PWD|PASS|PIN)(_|$)")
"""A number under such a name is one; under any other it is how many tokens, keys or heads."""
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_PLAIN_WORDS = frozenset({"", "true", "false", "yes", "no", "on", "off", "none", "null", "auto"})

_USER_IN_URL = re.compile(r"(?<=://)[^/?#\s]+(?=@)")
"""Up to the last @ in front of the path: a password may hold one."""
_PAIR = re.compile(r"(?<=[?&;#])([\w.%-]+)=([^&;#\s\"'<>]+)")
"""A name with its value in a URL's query, or in a connection string."""
_BARE_SECRET = re.compile(
    r"(?<=hooks\.slack\.com/)[^\s\"']+|(?<=/api/webhooks/)[^\s\"']+|"
    r"\b(hf_|gh[a-z]_|github_pat_|glpat-|xox[a-z]-|sk-|dop_v1_|npm_|pypi-)[\w-]{16,}|"
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|"
    r"(?<=bearer )\S+|(?<=authorization: basic )\S+",
    re.IGNORECASE,
)
"""What looks like a secret wherever it stands: hooks, the keys of well-known services, JWTs."""
_SHORTEST = 4
"""A shorter value, such as 1, is found in too many texts that are not meant."""


def is_secret(name: str) -> bool:
    """Tell from the name of a variable, setting or option whether its value is nobody's business.

    Of a nested setting's name, joined by points, any part decides.
    """
    words = _upper_words(name)
    return _NO_SECRET.fullmatch(words) is None and any(
        _SECRET_NAME.search(form) for form in (words, name.upper())
    )


def _upper_words(name: str) -> str:
    return "_".join(part for part in _NAME_PARTS.split(name) if part).upper()


def mask_text(text: str, secrets: Sequence[str]) -> str:
    """Return a text without the secrets, and without what a URL carries to be let in."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = _USER_IN_URL.sub(MASK, text)
    text = _PAIR.sub(lambda found: _masked_pair(found[1], "=", found[2], ()), text)
    return _BARE_SECRET.sub(MASK, text)


def mask_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with its secrets masked, also where another value repeats one."""
    secrets = secrets_of(environ)
    return {
        name: MASK if is_secret(name) and value else mask_text(value, secrets)
        for name, value in environ.items()
    }


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values that must not be shown, the longest first."""
    return _worth_searching(value for name, value in environ.items() if is_secret(name))


def mask_arguments(words: Sequence[str], secrets: Sequence[str]) -> list[str]:
    """Return a command's words, masked: `--token=x`, `--token x`, `hub.token=x`, and any value."""
    known = (*secrets, *_worth_searching(word.value for word in _words(words) if word.is_secret))
    return [_masked_pair(word.name, word.between, word.value, known) for word in _words(words)]


def secrets_in(description: Mapping[str, Any], secrets: Sequence[str]) -> tuple[str, ...]:
    """Return the environment's secrets and those of a description, as `mask_description` reads it.

    For texts that come later, such as an exception's, in which a value of them may stand.
    """
    words = [word.value for word in _words(description.get(ARGUMENTS, ())) if word.is_secret]
    return (*secrets, *_worth_searching([*words, *_secret_settings(description)]))


def mask_description(description: Mapping[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """Return what a run is made of as everybody may see it: settings by name and by value.

    Args:
        told: JSON; under "arguments" the words of a script's command line.
        secrets: the environment's, `secrets_of`.
    """
    known = secrets_in(description, secrets)
    masked: dict[str, Any] = _masked(description, known)
    if ARGUMENTS in description:
        masked[ARGUMENTS] = mask_arguments(description[ARGUMENTS], known)
    return masked


@dataclass(frozen=True)
class _Word:
    """A word of a command line: `name` + `between` + `value`."""

    name: str
    between: str
    value: str

    @property
    def is_secret(self) -> bool:
        return _hides(self.name, self.value)


def _words(words: Sequence[str]) -> Iterator[_Word]:
    """Read each word with the option that it belongs to; a value of its own has no name shown."""
    option = ""
    for text in words:
        name, equals, value = text.partition("=")
        if option and not text.startswith("--"):
            # "--token abc": between is empty, so that the name is not printed again.
            yield _Word(option, "", text)
            option = ""
        elif equals and not re.search(r"\s|://", name):
            yield _Word(name, "=", value)
            option = ""
        else:
            yield _Word("", "", text)
            option = text if text.startswith("-") else ""


def _masked_pair(name: str, between: str, value: str, secrets: Sequence[str]) -> str:
    shown = MASK if _hides(name, value) else mask_text(value, secrets)
    return f"{name}{between}{shown}" if between else shown


def _hides(name: str, value: object) -> bool:
    """Decide from name and value; truth values and counts, as of tokens, are shown."""
    if value is None or isinstance(value, bool) or not is_secret(name):
        return False
    text = str(value).strip().lower()
    if text in _PLAIN_WORDS:
        return False
    is_count = _NUMBER.fullmatch(text) is not None
    return not is_count or _PASSWORD_NAME.search(_upper_words(name)) is not None


def _secret_settings(value: Any, name: str = "") -> Iterator[str]:
    for key, each in _children(value, name):
        if isinstance(each, str) and _hides(key, each):
            yield each
        else:
            yield from _secret_settings(each, key)


def _children(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{name}.{key}" if name else str(key), each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        yield from ((name, each) for each in value)


def _masked(value: Any, secrets: Sequence[str], name: str = "") -> Any:
    if isinstance(value, Mapping):
        inside = zip(value, _children(value, name), strict=True)
        return {key: _masked(each, secrets, path) for key, (path, each) in inside}
    if isinstance(value, list | tuple):
        return [_masked(each, secrets, path) for path, each in _children(value, name)]
    if _hides(name, value):
        return MASK
    return mask_text(value, secrets) if isinstance(value, str) else value


def _worth_searching(values: Iterator[str] | Sequence[str]) -> tuple[str, ...]:
    """Return the values that are to be masked wherever they stand, the longest first."""
    found = {
        value
        for value in values
        if len(value) >= _SHORTEST
        and value.lower() not in _PLAIN_WORDS
        and _NUMBER.fullmatch(value) is None
    }
    return tuple(sorted(found, key=len, reverse=True))


class Masks:
    """What a rank masks: the secrets of its environment, its arguments and its script's settings.

    A script may set a variable later: the environment is read at each call.
    """

    def __init__(self) -> None:
        self.settings: object = {}
        """What `run.config` has returned."""

    def text(self, text: str) -> str:
        """Return a text, such as an exception's, without the secrets that are known here."""
        return mask_text(text, self._secrets())

    def description(self, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return details, such as an event's, without the secrets that are known here."""
        return mask_description(details, self._secrets())

    def _secrets(self) -> tuple[str, ...]:
        settings = {ARGUMENTS: sys.argv[1:], "config": self.settings}
        return secrets_in(settings, secrets_of(os.environ))
