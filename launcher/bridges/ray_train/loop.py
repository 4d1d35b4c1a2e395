"""The training function for Ray Train: each of its workers is a node of ours.

    trainer = DataParallelTrainer(
        RelaunchTrainLoop("train.py", "--lr", "0.1", strategy="fsdp"),
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"GPU": 8}),
        run_config=RunConfig(name="run", storage_path="/shared/runs"),
    )

Ray calls it in a thread, where no signal handler can be installed. The ranks are processes of a
launcher that the worker starts and watches; notices of Ray reach them through it.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from strategies import ConfigError

from ...contract.own_command import unused_port
from ...contract.preemption import PreemptionNotice
from ...run_folder.jsonl import metrics_of
from ...workers import keeper
from .decisions import (
    END_S,
    Meeting,
    Option,
    Place,
    awaits_teardown,
    command_of,
    environment_of,
    error_of,
    is_watch_over,
    option_words,
    run_folder_of,
    teardown_at_s,
)
from .output import Output

LOOK_S = 1.0
"""How often the workers ask Ray for a notice, all together."""
_SECRET_BYTES = 16
_STDOUT = 1


class RelaunchTrainLoop:
    """A training function for Ray Train that runs a script under this launcher.

    Give it to `ray.train.v2.api.data_parallel_trainer.DataParallelTrainer`, with one worker per
    node: unlike TorchTrainer, that one does not start torch.distributed in the workers.
    """

    def __init__(
        self,
        script: str | Path,
        *args: object,
        run_dir: str | Path | None = None,
        nproc_per_node: int | None = None,
        **options: Option,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            script: The training script, which calls `Run.start`. A relative path is looked for in
                the working folder of Ray's workers.
            args: Its arguments. Ray's `train_loop_config` follows them as --NAME=VALUE.
            run_dir: The run folder, an absolute path that all nodes share; default: the folder of
                the run in `RunConfig.storage_path`.
            nproc_per_node: Ranks on each worker; default: one for each of its GPUs, else one.
            options: More options of `relaunch`, with underscores: strategy="fsdp", exact=True.

        Raises:
            ConfigError: the run folder is no absolute path, or an option follows from Ray.
        """
        self.run_dir = None if run_dir is None else Path(run_dir)
        if self.run_dir is not None and not self.run_dir.is_absolute():
            raise ConfigError(
                f'run_dir="{run_dir}" is a relative path, and each worker of Ray has a working '
                "folder of its own. Pass an absolute path on a file system that the nodes share."
            )
        if nproc_per_node is not None and nproc_per_node < 1:
            raise ConfigError(
                f"nproc_per_node={nproc_per_node} starts no rank. Pass a number from 1, or leave "
                "it out: then there is a rank for each GPU of a worker."
            )
        self.nproc_per_node = nproc_per_node
        self.script = (str(script), *map(str, args))
        self.options = option_words(options)

    def __call__(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Run the script to its end; called by Ray in each worker, in a thread.

        Returns:
            Of the last record of metrics: the numbers by their names, and `run_dir`.

        Raises:
            RunPreempted: the ranks have left after a notice; the next start resumes the run.
            RunRefused: exit code 2 or 93; the next start would end the same way.
            RunFailed: another exit code.
            ConfigError: there is no run folder.
        """
        place = _place()
        run_dir = run_folder_of(self.run_dir, *_storage())
        meeting = _meet(place)
        command = command_of(
            place,
            meeting,
            run_dir=run_dir,
            nproc_per_node=self.nproc_per_node,
            options=self.options,
            script=self.script,
            settings=config,
        )
        with (
            tempfile.TemporaryDirectory(prefix="relaunch-ray-") as scratch,
            closing(Output(run_dir / "logs" / f"ray-worker-{place.rank}.log")) as output,
        ):
            notice_file = Path(scratch) / "notice.json"
            environ = environment_of(os.environ, place, meeting, notice_file)
            watch = _Watch(_start(command, environ, output.fd), output, notice_file)
            code = watch.until_end()
        if awaits_teardown(code, watch.noticed_at_s is not None):
            watch.await_teardown()
        error = error_of(code, place.rank, output.tail(), run_dir)
        if error is not None:
            raise error
        return {"run_dir": str(run_dir), **_last_metrics(run_dir)}


def _start(
    command: Sequence[str], environ: Mapping[str, str], output: int
) -> subprocess.Popen[bytes]:
    """Start the launcher; where Ray kills this worker, and its children, it gets SIGTERM."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), *command],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )


class _Watch:
    """One launcher, from its start to its end; every worker makes the same calls of Ray."""

    def __init__(self, process: subprocess.Popen[bytes], output: Output, notice_file: Path) -> None:
        self._process = process
        self._output = output
        self._notice_file = notice_file
        self._deadline_s: float | None = None
        self.noticed_at_s: float | None = None
        """When Ray's notice was seen here, in seconds since the epoch; None: there was none."""

    def until_end(self) -> int:
        """Wait for the launcher and return its exit code; pass a notice on to it."""
        self._together()
        end = time.monotonic() + END_S
        while self._process.poll() is None and time.monotonic() < end:
            self._look()
        if self._process.poll() is None:
            self._process.kill()  # the launcher gets SIGTERM then
        code = self._process.wait()
        self._output.pass_on(_STDOUT)
        return code if code >= 0 else 128 - code

    def _together(self) -> None:
        """Ask Ray for notices until the launcher of rank 0 has ended.

        Each call waits for all workers, so that all have to make equally many; rank 0 decides.
        """
        from ray.train import get_preemption_info
        from ray.train.collective import broadcast_from_rank_zero

        ended_at_s: float | None = None
        while True:
            code = self._look()
            if code is not None and ended_at_s is None:
                ended_at_s = time.monotonic()
            if (info := get_preemption_info()) is not None:
                self._notice(info)
            if is_watch_over(
                first_has_ended=broadcast_from_rank_zero(code is not None),
                code=code,
                ended_since_s=0.0 if ended_at_s is None else time.monotonic() - ended_at_s,
                was_noticed=self.noticed_at_s is not None,
            ):
                return

    def _look(self) -> int | None:
        """Print what is new, wait for the launcher a little, and return its exit code if any."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LOOK_S)
        self._output.pass_on(_STDOUT)
        return self._process.poll()

    def _notice(self, info: Any) -> None:
        """Pass on what Ray announces; of several notices the first, and the nearest deadline."""
        deadline_s = None if info.deadline_ms is None else info.deadline_ms / 1000
        known = [at for at in (self._deadline_s, deadline_s) if at is not None]
        self._deadline_s = min(known, default=None)
        if self.noticed_at_s is not None:
            return
        self.noticed_at_s = time.time()
        nodes = ", ".join(node[:8] for node in info.preempted_node_ids)
        notice = PreemptionNotice(cause=f"Ray preempts node {nodes}", deadline=deadline_s)
        with suppress(OSError):  # a full disk takes the cause away, not the notice
            notice.write(self._notice_file)
        self._process.send_signal(signal.SIGTERM)

    def await_teardown(self) -> None:
        """Wait until Ray ends this worker, or long enough to know that it does not."""
        assert self.noticed_at_s is not None
        until_s = teardown_at_s(self._deadline_s, self.noticed_at_s)
        while (rest_s := until_s - time.time()) > 0:
            time.sleep(min(rest_s, LOOK_S))


def _place() -> Place:
    import ray
    import ray.util
    from ray.train import get_context

    context = get_context()
    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    return Place(
        rank=context.get_world_rank(),
        num_workers=context.get_world_size(),
        addr=ray.util.get_node_ip_address(),
        gpus=tuple(map(str, gpus)),
        name=context.get_experiment_name(),
    )


def _storage() -> tuple[str | None, str]:
    """Return the folder of this run as Ray knows it, None on no file system; and how it shows."""
    from ray.train import get_context

    storage = get_context().get_storage()
    path = storage.experiment_fs_path
    kind = storage.storage_filesystem.type_name
    return (path, path) if kind == "local" else (None, f"{kind}:{path}")


def _meet(place: Place) -> Meeting:
    """Return what rank 0 has chosen; called by every worker."""
    from ray.train.collective import broadcast_from_rank_zero

    chosen = None
    if place.rank == 0:
        chosen = (place.addr, unused_port(""), secrets.token_hex(_SECRET_BYTES))
    addr, port, secret = broadcast_from_rank_zero(chosen)
    return Meeting(addr=addr, port=port, secret=secret)


def _last_metrics(run_dir: Path) -> dict[str, Any]:
    """Return the last record of metrics; {}: there is none."""
    with suppress(OSError):
        return dict(next(reversed(metrics_of(run_dir)), {}))
    return {}
