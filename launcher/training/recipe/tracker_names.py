"""Names of trackers, as `track=` takes them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from strategies import ConfigError

TENSORBOARD = "tensorboard"


def check_trackers(track: Sequence[Any] | None) -> None:
    """Look at what was asked, on every rank, before anything is built.

    Raises:
        ConfigError: a name that Accelerate does not know, or whose package is not installed.
    """
    for one in track or ():
        if not isinstance(one, str):
            missing = [name for name in ("log", "finish") if not callable(getattr(one, name, None))]
            if missing:
                raise ConfigError(
                    f"track={one!r} has no {' and no '.join(missing)}. Pass a name such as "
                    '"wandb", or an object of a subclass of accelerate.tracking.GeneralTracker.'
                )
        elif one == TENSORBOARD:
            if importlib.util.find_spec("tensorboard") is None:
                raise ConfigError('track="tensorboard" needs: pip install tensorboard.')
        else:
            _check_name(one)


def _check_name(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted({str(getattr(key, "value", key)) for key in LOGGER_TYPE_TO_CLASS})
    if name not in known:
        raise ConfigError(f'track="{name}" is unknown; choose from {", ".join(known)}.')
    if name not in {str(getattr(key, "value", key)) for key in get_available_trackers()}:
        raise ConfigError(f'track="{name}" needs its package: pip install {name}.')
