"""Log messages of the engines about which a user can do nothing; no torch."""

import logging

_DEEPSPEED = "DeepSpeed"
NOT_FOR_USERS = (
    "ZeRO with an untested optimizer",
    "Setting accelerator to CPU",
    "Setting ds_accelerator to",
)
"""About choices that are made here: which optimizers ZeRO takes is checked, and the device is the
rank's. transformers imports DeepSpeed too, under any strategy."""


def is_for_users(record: logging.LogRecord) -> bool:
    """Return whether a line is passed on; a filter for a logger."""
    message = record.getMessage()
    return not any(words in message for words in NOT_FOR_USERS)


def quiet_engines() -> None:
    """Hold these lines back from now on, before or after an engine is imported."""
    log = logging.getLogger(_DEEPSPEED)
    if is_for_users not in log.filters:
        log.addFilter(is_for_users)
