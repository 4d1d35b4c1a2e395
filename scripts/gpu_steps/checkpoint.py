"""What a save costs the training, beside torch.save and DCP's asynchronous save of that state."""

import shutil
import time
from pathlib import Path

import torch
from kit import ON_GPU, OUT, Gpt, Tokens, events_of, holds, make_job, say, sized, stepping, timed_s

from strategies import process_groups

EVERY, SAVES = 4, 4


def peers(job, folder: Path) -> None:  # type: ignore[no-untyped-def]
    from torch.distributed.checkpoint import async_save

    model, optimizer = job._strategy._model, job._strategy._optimizer
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    took_s = timed_s(lambda: torch.save(state, folder / "plain.pt"))
    say("torch.save: the training stands still", took_s, "s")
    (folder / "plain.pt").unlink()
    try:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        stager = DefaultStager(StagingOptions(ON_GPU, ON_GPU, ON_GPU, ON_GPU))
        # torch 2.11 drops the kept memory after each save, and cannot stage again then.
        kept = stager._state_dict_stager
        close, kept.close = kept.close, lambda: None  # type: ignore[method-assign]
    except (ImportError, TypeError) as error:
        say("DCP", f"skipped: {error}")
        return
    for number in range(3):
        began_s = time.perf_counter()
        try:
            saving = async_save(
                {"model": state["model"]} | {"optim": state["optimizer"]["state"]},
                checkpoint_id=folder / f"dcp-{number}",
                async_stager=stager,
            )
            staged = getattr(saving, "staging_completion", None)
            if staged is not None:
                staged.result()
        except Exception as error:  # whatever a version of torch cannot do here
            say("DCP", f"skipped: {type(error).__name__}: {str(error)[:200]}")
            return
        stall_s = time.perf_counter() - began_s
        getattr(saving, "upload_completion", saving).result()
        shutil.rmtree(folder / f"dcp-{number}", ignore_errors=True)
        say(f"DCP, save {number + 1}: the training stands still", stall_s, "s")
    close()


with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
    size, folder = sized("1B"), OUT / "run"
    job = make_job(
        ranks,
        "ddp",
        folder,
        model=lambda: Gpt(**size),
        train=Tokens(size["vocabulary"], size["context"]),
        precision="bf16",
        global_batch=4,
        micro_batch=4,
        save_every=f"{EVERY} steps",
        keep=1,
    )
    step = stepping(job)
    took = [timed_s(step) for _ in range(EVERY * SAVES + 3)]
    stalls = [one["stall_s"] for one in events_of(folder) if one["event"] == "saved"]
    say("saves", len(stalls), passed=len(stalls) >= SAVES - 1, target=f">= {SAVES - 1}")
    holds("the first save: the training stands still", stalls[0], 1.0, "s")
    holds("later saves: the training stands still", max(stalls[1:]), 0.2, "s")
    say("the slowest step beyond the median", max(took[2:]) - sorted(took)[len(took) // 2], "s")
    staging = job._checkpointer._writer._staging
    image = torch.frombuffer(staging._memory, dtype=torch.uint8)
    say("host memory is locked", image.is_pinned(), passed=image.is_pinned() if ON_GPU else None)
    if staging.note is not None:
        say("why not", staging.note)
    peers(job, OUT)
    job.run.lockstep.stay()
