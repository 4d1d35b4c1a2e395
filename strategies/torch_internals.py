"""The private names of torch that this package uses, and what becomes of us without them.

Each was read in torch 2.13. Where one is missing, what is built on it is left out, or refused when
it is built.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement

StartIterator = Callable[[Any], Any]
"""From a loader to an iterator with running workers: DataLoader._get_iterator."""


def wrap_loader_start(wrap: Callable[[StartIterator], StartIterator]) -> str | None:
    """Replace the method by which each loader starts its workers; return why it cannot be, or None.

    It is called once for each start of workers; with persistent workers once only.
    """
    original = getattr(DataLoader, "_get_iterator", None)
    if not callable(original):
        return "its DataLoader has no _get_iterator"
    DataLoader._get_iterator = wrap(original)  # type: ignore[method-assign, assignment]
    return None


def collectives_so_far(device: torch.device) -> int | None:
    """Return how many collectives this rank has begun in the common group; None: not known."""
    with suppress(AttributeError, RuntimeError, ValueError):
        backend: Any = dist.distributed_c10d._get_default_group()._get_backend(device)
        return int(backend._get_sequence_number_for_group())
    return None


def reduce_scatter(output: torch.Tensor, given: torch.Tensor, **options: Any) -> Any:
    """Sum a tensor over the ranks, and leave each rank its part. Called on every rank.

    torch 2.11 knows it by the older name alone, of which 2.13 and 2.14 warn.
    """
    made = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    return made(output, given, **options)


def all_gather(output: torch.Tensor, given: torch.Tensor) -> None:
    """Put the tensors of all ranks into one, in the order of the ranks. Called on every rank."""
    (getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor)(output, given)


def store_of_ranks(prefix: str) -> Any:
    """Return the store by which the ranks have met, with keys of its own.

    Args:
        prefix: the same on every rank.
    """
    store = dist.distributed_c10d._get_default_store()
    return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]


def node_of_backward() -> Any:
    """Return the node of the backward that runs on this thread; None: there is none."""
    current = getattr(torch._C, "_current_autograd_node", None)
    return None if current is None else current()


def number_of_next_node() -> int | None:
    """Return the number that the next node of a backward will have; None: it is not known."""
    number = getattr(torch.autograd, "_get_sequence_nr", None)
    return None if number is None else int(number())


def loader_start() -> object:
    """Return what `wrap_loader_start` replaces."""
    return getattr(DataLoader, "_get_iterator", None)


def worker_processes(iterator: object) -> Sequence[BaseProcess]:
    """Return the worker processes of a loader's iterator, in the order of their numbers."""
    return tuple(one for one in getattr(iterator, "_workers", ()) if isinstance(one, BaseProcess))


def is_poll_timeout(error: BaseException) -> bool:
    """Return whether the iterator of a loader with a timeout says that nothing has come.

    Its next() can then be called again. What a data set raised in a worker has other words.
    """
    return type(error) is RuntimeError and str(error).startswith("DataLoader timed out after ")


def pin_thread_is_dead(iterator: object) -> bool:
    """Return whether the thread that pins batches has ended, as it does of a broken connection."""
    thread = getattr(iterator, "_pin_memory_thread", None)
    return isinstance(thread, threading.Thread) and not thread.is_alive()


def forget_worker_deaths(iterator: object) -> None:
    """Keep torch's SIGCHLD handler from raising, anywhere, when a worker of this iterator dies."""
    if getattr(iterator, "_worker_pids_set", False) and _can_watch():
        with suppress(ValueError):
            torch._C._remove_worker_pids(id(iterator))
            # Not left out: at its end the iterator takes its entry away, and fails without one.
            torch._C._set_worker_pids(id(iterator), ())


@contextmanager
def watch_workers(key: int, pids: Iterable[int]) -> Iterator[None]:
    """Let torch's SIGCHLD handler raise a RuntimeError when one of the workers dies in this block.

    It frees a process that waits for the second half of what a dead worker has begun to send.
    """
    if not _can_watch():
        yield
        return
    with suppress(ValueError):  # an error in the lines below may have come before the last one
        torch._C._remove_worker_pids(key)
    torch._C._set_worker_pids(key, tuple(pids))
    try:
        yield
    finally:
        torch._C._remove_worker_pids(key)


def resume_workers(loader: Any, iterator: Any, *, bound_s: float) -> bool:
    """Let the idle workers of a persistent loader begin again; return whether they did in time.

    They answer at once, but the timeout by which their owner looks at other things is short.
    """
    usual_s = getattr(iterator, "_timeout", None)
    if usual_s is not None:
        iterator._timeout = bound_s
    try:
        return iter(loader) is iterator
    except RuntimeError:
        return False
    finally:
        if usual_s is not None:
            iterator._timeout = usual_s


def shut_down(iterator: object) -> None:
    """End the workers of a loader's iterator as torch does; may take seconds for each."""
    end = getattr(iterator, "_shutdown_workers", None)
    if callable(end):
        end()


def dtensor_of(
    local: torch.Tensor, mesh: DeviceMesh, placements: Sequence[Placement], *, like: torch.Tensor
) -> DTensor:
    """Return a sharded tensor of what this rank has, where that is.

    `DTensor.from_local` would move it to the mesh's device, and with offload it is on the host.

    Args:
        local: this rank's part.
        mesh: of the ranks.
        placements: how it is cut.
        like: of the shape of the whole.
    """
    from torch.distributed.tensor import DTensor  # not at each start: it brings a lot with it

    described: Any = DTensor.from_local(
        local.to("meta"), mesh, placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    made: Any = DTensor
    whole: DTensor = made(local, described._spec, requires_grad=False)
    return whole


def fsdp_parameters(module: nn.Module) -> list[Any]:
    """Return torch's own account of each parameter that fully_shard gave to this module.

    Read in torch 2.11 to 2.14 (_fully_shard/_fsdp_state.py). The list comes first: beside it the
    name of torch 2.11 is a property that raises where a module has several groups.

    Raises:
        AttributeError: this torch keeps it elsewhere; see `missing_for_fsdp`.
    """
    state: Any = module._get_fsdp_state()  # type: ignore[operator]
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:
        only = state._fsdp_param_group
        groups = [] if only is None else [only]
    return [one for group in groups for one in group.fsdp_params]


def unsharded(account: Any) -> torch.Tensor | None:
    """Return what stands in for a parameter while it computes.

    A block that no forward has called yet has none: its shards stand there, and no loss depends on
    them.
    """
    return getattr(account, "_unsharded_param", None)


def is_set_by_fsdp() -> bool:
    """Return whether fully_shard is what gives a module a parameter now.

    It does so through the `__setattr__` of a module that has its own. Called in a hook of torch's
    for registrations.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "register_parameter":
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name in ("register_parameter", "__setattr__"):
        frame = frame.f_back
    return frame is not None and frame.f_globals["__name__"].startswith("torch.distributed.fsdp")


def missing_for_fsdp(modules: Iterable[nn.Module]) -> str | None:
    """Return the first private name of fully_shard that this torch lacks; None: all are there.

    Args:
        modules: sharded ones.
    """
    try:
        accounts = [one for module in modules for one in fsdp_parameters(module)]
        for one in accounts:
            _ = one.sharded_param
    except AttributeError as error:
        return f"{type(error.obj).__name__}.{error.name}"
    for one in accounts:
        # Set by the first forward only, and declared in the class.
        if "_unsharded_param" not in type(one).__annotations__ and unsharded(one) is None:
            return f"{type(one).__name__}._unsharded_param"
    return None


def lay_buckets(
    wrapper: nn.parallel.DistributedDataParallel, order: Sequence[nn.Parameter]
) -> None:
    """Have DDP lay its buckets as after a backward that made gradients in this order.

    Called on every rank. Where torch has other names for it, nothing is done: the first step is
    then summed in one bucket.
    """
    reducer: Any = wrapper.reducer
    if not all(hasattr(reducer, name) for name in ("prepare_for_backward", "_rebuild_buckets")):
        return
    syncs, wrapper.require_backward_grad_sync = wrapper.require_backward_grad_sync, True
    reducer.prepare_for_backward([])
    for parameter in order:
        torch.autograd.backward(parameter, torch.zeros_like(parameter))
    reducer._rebuild_buckets()
    wrapper.require_backward_grad_sync = syncs
    for parameter in order:
        parameter.grad = None


def backward_within_modes(loss: torch.Tensor) -> None:
    """Do as torch.autograd.backward, which takes modes off meanwhile.

    They are missing then where a block's forward is computed again. Without the private name it is
    that function, and such a block may not be the same.
    """
    run: Any = getattr(torch.autograd.graph, "_engine_run_backward", None)
    if run is None:
        torch.autograd.backward(loss)
        return
    one, inputs = torch.ones_like(loss), ()
    run((loss,), (one,), False, False, inputs, allow_unreachable=True, accumulate_grad=True)


def watch_compiling(report: Callable[[], None]) -> None:
    """Call `report` as each compilation of torch.compile begins and ends, in this process.

    The first step of a compiled model takes a minute without anything else to be seen. Imports
    torch._dynamo, which takes seconds: for models that compile anyway.
    """
    with suppress(ImportError, AttributeError):
        from torch._dynamo.callback import callback_handler

        callback_handler.register_start_callback(lambda _: report())
        callback_handler.register_end_callback(lambda _: report())


def _can_watch() -> bool:
    return hasattr(torch._C, "_set_worker_pids") and hasattr(torch._C, "_remove_worker_pids")


def is_recomputed_later() -> bool:
    """Return whether this is called by torch.utils.checkpoint, or may be, inside a forward."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    # The older kind of checkpoint computes without gradients at first.
    return not torch.is_grad_enabled() or top is None or top(True) is not None


def is_compiled(module: nn.Module) -> bool:
    """Return whether a call of a module goes to compiled code."""
    return getattr(module, "_compiled_call_impl", None) is not None
