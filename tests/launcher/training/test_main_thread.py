"""`Run.start` belongs on the main thread: only that one handles signals."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from launcher import Run, bridges
from strategies import ConfigError


def test_a_thread_is_refused_before_anything_begins() -> None:
    with ThreadPoolExecutor(1) as threads:
        called = threads.submit(Run.start, lambda run: None)
        with pytest.raises(ConfigError, match="was called in a thread") as refused:
            called.result()
    assert 'launcher.bridges.RelaunchTrainLoop("train.py")' in str(refused.value)
    assert "RelaunchTrainLoop" in bridges.__all__
