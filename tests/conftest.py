"""What all tests need."""

import signal
from collections import defaultdict
from collections.abc import Iterator

import pytest

# A shell starts background jobs with SIGINT ignored, nohup with SIGHUP, and children inherit that;
# what is tested here is what happens to a person's Ctrl-C and closed terminal.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def _own_signal_handlers() -> Iterator[None]:
    """Put the handlers back: a command that was called here leaves its own, and forks have them."""
    before = {signum: signal.getsignal(signum) for signum in HANDLED}
    yield
    for signum, handler in before.items():
        if signal.getsignal(signum) is not handler:
            signal.signal(signum, handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark slow every case that `quick_cases(*ids)` of its test leaves out; check the ids."""
    found: dict[str, set[str]] = defaultdict(set)
    named: dict[str, tuple[str, ...]] = {}
    for item in items:
        marker = item.get_closest_marker("quick_cases")
        if marker is None or not isinstance(item, pytest.Function):
            continue
        function, case = item.nodeid.split("[")[0], item.callspec.id
        found[function].add(case)
        named[function] = marker.args
        if case not in marker.args:
            item.add_marker(pytest.mark.slow)
    if any("[" in argument for argument in config.args):
        return
    for function, cases in named.items():
        if unknown := set(cases) - found[function]:
            raise pytest.UsageError(f"{function} has no case {', '.join(sorted(unknown))}")
