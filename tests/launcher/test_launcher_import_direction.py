"""The process part of the launcher starts without torch; its two small programs need nothing."""

import ast
import sys
from pathlib import Path

import pytest

import launcher

PACKAGE = Path(launcher.__file__).parent
STANDALONE = ("guardian", "exec_worker")
PROCESS_PART = (
    *("attempt", "cli", "command", "command_line", "console", "environment", "error_file"),
    *("continuation", "errors", "leaving", "peer_loss", "preemption"),
    *("exec_worker", "exit_codes", "gpus", "guardian", "launch", "lifeline", "options", "output"),
    *("console_share", "evidence", "lines", "log_folder"),
    *("attempt_end", "attempt_number", "event_file", "heartbeat", "restarts"),
    *("hang", "stacks"),
    *("network", "node_messages", "node_texts", "port_holder", "run_secret", "seal"),
    *("dry_run", "group", "masking"),
    *("notes", "option_table", "program", "values", "words"),
    *("plan", "report", "shadowing", "signal_inbox", "signals", "supervision", "worker"),
    *(
        "main_module",
        "prctl",
        "process_end",
        "process_title",
        "python_command",
        "starter",
        "threads",
    ),
    *("limits", "site"),
    *("failure_order", "gathering", "reminder", "subcommands", "whereabouts"),
    *(
        "descriptors",
        "drawn_at_import",
        "forked",
        "warm_loop",
        "warm_messages",
        "warm_rank",
        "warm_server",
        "warmth",
    ),
)


def top_level_imports(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names] if node.module is None else [node.module]
            yield from ((node.level, name) for name in names)


@pytest.mark.parametrize("module", PROCESS_PART)
def test_nothing_heavy_at_import(module):
    for level, name in top_level_imports(module):
        if level:
            assert name in PROCESS_PART
        else:
            top = name.partition(".")[0]
            assert top in sys.stdlib_module_names or name.startswith("strategies.")


@pytest.mark.parametrize("module", STANDALONE)
def test_standalone_programs_import_only_the_standard_library(module):
    for level, name in top_level_imports(module):
        assert level == 0
        assert name in sys.stdlib_module_names
