"""What a checkpoint does not hold, but names in files that are not the run's; pure."""

from collections.abc import Sequence

from checkpointing import Manifest

from ...run_folder.tables import plural, size_text


def not_held_text(size_bytes: int, paths: Sequence[str]) -> str:
    """Return a sentence for people who copy or move checkpoints."""
    more = f" and {plural(len(paths) - 1, 'other file')}" if paths[1:] else ""
    return (
        f"not self-contained: {size_text(size_bytes)} of frozen tensors are read from "
        f"{paths[0]}{more}; a copy elsewhere needs the same files there"
    )


def named_lines(manifest: Manifest) -> list[str]:
    """Return a line for each of these files, and the sentence; none where there are none."""
    if not manifest.named:
        return []
    sizes: dict[str, int] = {}
    for one in manifest.named:
        sizes[one.path] = sizes.get(one.path, 0) + one.size_bytes
    return [
        *(f"{path}  {size_text(size)} of it, named" for path, size in sizes.items()),
        not_held_text(manifest.named_bytes, manifest.named_paths),
    ]
