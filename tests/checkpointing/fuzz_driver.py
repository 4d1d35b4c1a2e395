"""Read thousands of damaged and forged files in a process whose memory is limited.

    python fuzz_driver.py KIND FOLDER COUNT

KIND "manifest" damages FOLDER/manifest.json; "safetensors", "metadata", "distcp" and "deepspeed"
damage what an import reads. Prints what was refused and what was accepted. Every error that is not
this package's own ends the process, a MemoryError included.
"""

import copy
import hashlib
import json
import random
import resource
import sys
from pathlib import Path

from checkpointing import CheckpointError, Files
from checkpointing.format.manifest_json import parse_manifest
from checkpointing.format.strict_json import canonical_text

SPARE_BYTES = 96 * 1024 * 1024
NASTY = (
    *(None, True, -1, 0, 1, 7, 4096, 1 << 31, 1 << 63, 1 << 200, -(1 << 64), 0.5, 1e308),
    *("", "x", "../../etc/passwd", "r00000.safetensors", "F64", "\u2603", "0" * 5000),
    *([], {}, [[]], [1] * 100, {"a": 1}, [None], [-1], [1 << 70]),
)


def limit_memory() -> None:
    """Allow so many more bytes of addresses than there are now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        bytearray(2 * SPARE_BYTES)
    except MemoryError:
        return
    raise SystemExit("the limit on memory does not hold")


def places(value, path=()):
    """Yield the path of every value inside a JSON document."""
    if path:
        yield path
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))


def change(content, path, rng) -> None:
    """Delete, double or replace one value; a path that is no longer there is left alone."""
    holder = content
    try:
        for key in path[:-1]:
            holder = holder[key]
        action = rng.random()
        if action < 0.15:
            del holder[path[-1]]
        elif action < 0.25 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[path[-1]]))
        else:
            holder[path[-1]] = copy.deepcopy(rng.choice(NASTY))
    except (KeyError, IndexError, TypeError):
        return


def forged(text, found, rng) -> bytes:
    """Change a few values as somebody would who also renews the SHA-256."""
    content = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        change(content, rng.choice(found), rng)
    content.pop("sha256", None)
    digest = hashlib.sha256(canonical_text(content).encode()).hexdigest()
    return canonical_text({**content, "sha256": digest}).encode()


def torn(text, rng) -> bytes:
    """Damage the bytes: flipped, cut out, doubled or mixed up."""
    text = bytearray(text)
    for _ in range(rng.randint(1, 5)):
        start, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        action = rng.randrange(5)
        if action == 0 and text:
            text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
        elif action == 1:
            del text[start:end]
        elif action == 2:
            text[start:start] = text[start : start + 200]
        elif action == 3:
            text[start:end] = bytes(rng.randrange(256) for _ in range(min(20, end - start)))
        else:
            text[start:start] = b"[" * rng.randrange(5000)
    return bytes(text)


def flipped(content, rng) -> bytes:
    """Change a few bytes, and cut every fifth file off."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged[: rng.randrange(1, len(damaged) + 1)] if rng.random() < 0.2 else damaged)


def reheaded(content, found, rng) -> bytes:
    """Change a few values of a safetensors header, and now and then its length."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    for _ in range(rng.randint(1, 3)):
        change(header, rng.choice(found), rng)
    text = json.dumps(header).encode()
    length = rng.choice((1 << 63, 1 << 40, len(text) + 1, 0)) if rng.random() < 0.2 else len(text)
    return length.to_bytes(8, "little") + text + content[8 + len(text) :]


class Replaced(Files):
    """A disk on which one file has another content."""

    def __init__(self, victim) -> None:
        self.victim = victim
        self.content = b""

    def open(self, path):
        return -1 if path == self.victim else super().open(path)

    def size(self, path):
        return len(self.content) if path == self.victim else super().size(path)

    def pread(self, fd, into, offset):
        if fd != -1:
            return super().pread(fd, into, offset)
        part = self.content[offset : offset + len(into)]
        into[: len(part)] = part
        return len(part)

    def close(self, fd):
        if fd != -1:
            super().close(fd)


def fuzz_manifest(folder, count, rng):
    """Yield whether each damaged manifest was refused."""
    text = (folder / "manifest.json").read_bytes()
    found = list(places(json.loads(text)))
    for number in range(count):
        changed = forged(text, found, rng) if number % 2 else torn(text, rng)
        try:
            parse_manifest(changed)
        except ValueError:
            yield True
        else:
            yield False


def fuzz_import(folder, victim, count, rng):
    """Yield whether each import of a folder with one damaged file was refused."""
    from checkpointing import open_foreign

    files = Replaced(victim)
    intact = victim.read_bytes()
    is_safetensors = victim.suffix == ".safetensors"
    if is_safetensors:
        found = list(places(json.loads(intact[8 : 8 + int.from_bytes(intact[:8], "little")])))
    for number in range(count):
        is_forged = is_safetensors and number % 2
        files.content = reheaded(intact, found, rng) if is_forged else flipped(intact, rng)
        try:
            source = open_foreign(folder, files=files)
            with source.opened:
                for one in source.tensors:
                    one.read()
        except (CheckpointError, ValueError):
            yield True
        else:
            yield False


def main() -> None:
    kind, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(2)
    if kind == "manifest":
        cases = fuzz_manifest(folder, count, rng)
    else:
        import torch

        import checkpointing.importing.import_checkpoint  # noqa: F401  its memory does not count

        torch.set_num_threads(1)
        cases = fuzz_import(folder, folder / kind, count, rng)
    limit_memory()
    results = list(cases)
    print(json.dumps({"refused": sum(results), "accepted": len(results) - sum(results)}))


main()
