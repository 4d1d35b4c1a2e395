"""Options without effect here: one sentence for each, reported once."""

from collections.abc import Mapping

from ..plan.given_options import Given, Words
from ..plan.option_types import configuration

JOIN_TIMEOUT = ("join_timeout", "timeout")
"""Keys of --rdzv-conf for one thing; the first one that is given is used."""
LAST_CALL = ("last_call_timeout",)
READ = (*JOIN_TIMEOUT, *LAST_CALL)
"""Keys of --rdzv-conf that are used."""

_WITHOUT_MEANING: Mapping[str, str] = {
    "--monitor-interval": "the end of a rank is noticed at once",
    "--start-method": "it changes nothing for a script, as in torchrun",
    "--event-log-handler": "events are written to RUN_DIR/events.jsonl",
    "--logs-specs": "the logs are relaunch's own; see --log-dir, -r and -t",
    "--container": "it is for the agents of a Slurm job",
}
_ON_ONE_NODE: Mapping[str, str] = {
    "--local-addr": "one node needs no address for others",
    "--rdzv-conf": "there is only one node",
    "--secret-file": "there is no other node to share it with",
}
_STANDALONE = ("--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--master-addr", "--master-port")
_SAYS_NOTHING: Mapping[str, str] = {"--event-log-handler": "null"}
"""Values that are torchrun's default: to spell them out asks for nothing."""


def notes(words: Words, *, several_nodes: bool) -> tuple[str, ...]:
    """Return the sentences about the options that change nothing; pure."""
    reasons = dict(_WITHOUT_MEANING)
    if not several_nodes:
        reasons |= _ON_ONE_NODE
        if words.text("--rdzv-backend") not in (None, "static", "c10d"):
            reasons["--rdzv-backend"] = "one node needs no server to meet"
    if words.flag("--standalone"):
        reasons |= dict.fromkeys(_STANDALONE, "--standalone takes a free port on loopback")
    elif words.text("--rdzv-endpoint") is not None:
        reasons |= dict.fromkeys(("--master-addr", "--master-port"), "--rdzv-endpoint says where")
    if words.flag("--run-path") and words.flag("--no-python"):
        reasons["--no-python"] = "--run-path takes precedence, as in torchrun"
    unused = [
        f"{given.spelled} has no effect: {reasons[name]}."
        for name, given in words.given.items()
        if name in reasons and given.text != _SAYS_NOTHING.get(name)
    ]
    if "--rdzv-conf" in words.given and "--rdzv-conf" not in reasons:
        unused += _unused_keys(words.given["--rdzv-conf"])
    return tuple(unused)


def _unused_keys(given: Given) -> list[str]:
    """Return a sentence about the keys of --rdzv-conf that change nothing, if there are any."""
    unused = [f"{key}={value}" for key, value in configuration(given).items() if key not in READ]
    if not unused:
        return []
    return [
        f"{','.join(unused)} in --rdzv-conf {'has' if len(unused) == 1 else 'have'} no effect: of "
        f"its keys the nodes read {', '.join(READ)} only."
    ]
