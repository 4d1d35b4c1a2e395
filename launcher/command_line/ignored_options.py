"""What was asked and has no meaning here: one sentence for each option, said once."""

from collections.abc import Mapping

from ..plan.given_options import Words

_WITHOUT_MEANING: Mapping[str, str] = {
    "--monitor-interval": "the end of a rank is noticed at once",
    "--start-method": "it changes nothing for a script, as in torchrun",
    "--event-log-handler": "events are written to RUN_DIR/events.jsonl",
    "--logs-specs": "the logs are relaunch's own; see --log-dir, -r and -t",
    "--container": "it is for the agents of a Slurm job",
    "--numa-binding": "the ranks are not bound to CPUs",
}
_ON_ONE_NODE: Mapping[str, str] = {
    "--local-addr": "one node needs no address for others",
    "--rdzv-conf": "one node waits for nobody",
    "--secret-file": "one node has nobody to share it with",
}
_STANDALONE = ("--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--master-addr", "--master-port")
_SAYS_NOTHING: Mapping[str, str] = {"--event-log-handler": "null"}
"""Values that are torchrun's default: whoever spells them out asks for nothing."""


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
    return tuple(
        f"{given.spelled} has no effect: {reasons[name]}."
        for name, given in words.given.items()
        if name in reasons and given.text != _SAYS_NOTHING.get(name)
    )
