"""What of DeepSpeed's log reaches a user."""

import logging

from strategies import quiet_engines


def test_what_a_user_can_do_nothing_about_is_held_back():
    log, heard = logging.getLogger("DeepSpeed"), []
    before = list(log.filters)
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    log.addHandler(handler)
    try:
        quiet_engines()
        quiet_engines()
        assert len(log.filters) <= len(before) + 1
        log.warning("**** You are using ZeRO with an untested optimizer, proceed with caution ****")
        log.warning("Setting accelerator to %s. If you have GPU", "CPU")
        log.warning("out of memory")
    finally:
        log.removeHandler(handler)
        log.filters[:] = before
    assert heard == ["out of memory"]
