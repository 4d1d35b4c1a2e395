"""A manifest as text, and back. Pure; parsing believes nothing that it has not checked."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from .gc_pause import collector_held
from .json_fields import Fields
from .manifest import (
    FORMAT_NAME,
    FORMAT_VERSION,
    MAX_BLOCK_BYTES,
    MAX_TEXT_BYTES,
    OWN_FILES_VERSION,
    READ_VERSIONS,
    Chunk,
    Manifest,
    NamedTensor,
    StoredFile,
    StoredTensor,
)
from .ranges import Range, find_cover_problem
from .shard_header import HEADER_ALIGN_BYTES, SHARD_NAME
from .strict_json import JSON, canonical_text, parse_json
from .tensor_spec import TensorSpec

_TOP: Final = frozenset(
    ("format", "version", "step", "token", "created_by", "state", "tensors", "files", "sha256")
)
_NAMED_TOP: Final = _TOP | {"named"}
_NAMED_SINCE: Final = 4
"""The first version that has tensors in files of others."""
_TENSOR: Final = frozenset(("fqn", "key", "shape", "dtype", "chunks"))
_CHUNK_NUMBERS: Final = 4
_OBJECTS_SINCE: Final = 3
"""The first version that has objects."""
_FILE: Final = frozenset(("name", "size_bytes", "block_bytes", "crc32"))
_NAMED: Final = frozenset(("path", "tensor", "size_bytes", "block_bytes", "crc32"))
_TOKEN: Final = re.compile(r"[0-9a-f]{8,64}")


class UnreadVersionError(ValueError):
    """A manifest is unaltered, and of a version that is not read here."""


@collector_held()
def encode_manifest(manifest: Manifest) -> bytes:
    """Return the canonical text of a manifest, with the SHA-256 of all the rest in it.

    Raises:
        ValueError: If the manifest would not be accepted on reading.
    """
    everywhere = (*manifest.files, *manifest.named)
    place_of = {file.name: place for place, file in enumerate(everywhere)}
    _require_consistent(manifest.tensors, everywhere)
    content: dict[str, JSON] = {
        "format": FORMAT_NAME,
        # One that needs no newer version can be read by an older relaunch.
        "version": FORMAT_VERSION if manifest.named else OWN_FILES_VERSION,
        "step": manifest.step,
        "token": manifest.token,
        "created_by": manifest.created_by,
        "state": manifest.state,
        "tensors": [encode_tensor(tensor, place_of) for tensor in manifest.tensors],
        "files": [encode_file(file) for file in manifest.files],
    }
    if manifest.named:
        content["named"] = [encode_named(one) for one in manifest.named]
    text, _ = _spell(content)
    if len(text) > MAX_TEXT_BYTES:
        raise ValueError(f"the manifest has {len(text)} bytes, more than {MAX_TEXT_BYTES}")
    return text


@collector_held()
def parse_manifest(text: bytes) -> Manifest:
    """Read a manifest and prove that it is unaltered and consistent.

    Raises:
        UnreadVersionError: It is unaltered, and of another version.
        ValueError: Saying what is wrong, without the file's name, which the caller knows.
    """
    top = parse_json(text)
    # Another version may have other fields: ask for it before anything else.
    if isinstance(top, dict) and top.get("format") == FORMAT_NAME:
        version = top.get("version")
        # Not true for 1, nor 3.0 for 3.
        if type(version) is not int or version not in READ_VERSIONS:
            # A changed byte does not make a newer format of a manifest: its digest tells.
            is_whole = _spell(top)[1] == top.get("sha256")
            raise (UnreadVersionError if is_whole else ValueError)(
                f"has format version {version!r}; this relaunch reads versions "
                f"{READ_VERSIONS[0]} to {READ_VERSIONS[-1]}. Use the relaunch that wrote it"
            )
    has_named = isinstance(top, dict) and top.get("version") == _NAMED_SINCE
    fields = Fields(top, "the manifest", _NAMED_TOP if has_named else _TOP)
    if fields.text("format") != FORMAT_NAME:
        raise ValueError(f"has the format {fields.text('format')!r}, not {FORMAT_NAME!r}")
    spelled, digest = _spell(fields.all_but("sha256"))
    if fields.text("sha256") != digest:
        raise ValueError("does not match its SHA-256")
    if spelled != text:
        raise ValueError("not spelled canonically (an edited file, or a duplicate key)")
    del spelled, text
    if not _TOKEN.fullmatch(fields.text("token")):
        raise ValueError(f"has the token {fields.text('token')!r}, which is not hexadecimal")
    files = tuple(parse_file(value) for value in fields.array("files"))
    named = tuple(parse_named(value) for value in (fields.array("named") if has_named else ()))
    names = [file.name for file in (*files, *named)]
    manifest = Manifest(
        step=fields.integer("step"),
        token=fields.text("token"),
        created_by=fields.mapping("created_by"),
        state=fields.mapping("state"),
        tensors=tuple(parse_tensor(value, names) for value in fields.array("tensors")),
        files=files,
        named=named,
    )
    _require_consistent(manifest.tensors, (*files, *named))
    if manifest.objects and fields.integer("version") < _OBJECTS_SINCE:
        raise ValueError(f"names objects, which version {fields.integer('version')} has none of")
    return manifest


def encode_tensor(tensor: StoredTensor, place_of: Mapping[str, int]) -> JSON:
    """Return a tensor as it stands in the manifest.

    Args:
        tensor: With its chunks.
        place_of: Where each file stands among the files.
    """
    return {
        "fqn": tensor.spec.fqn,
        "key": tensor.spec.key,
        "shape": list(tensor.spec.shape),
        "dtype": tensor.spec.dtype,
        "chunks": encode_chunks(tensor.chunks, place_of),
    }


def encode_chunks(chunks: Sequence[Chunk], place_of: Mapping[str, int]) -> JSON:
    """Return each chunk as [place of its file, start, end, offset]."""
    return [[place_of[file], start, end, offset] for file, start, end, offset in chunks]


def encode_file(file: StoredFile) -> JSON:
    """Return a file as it stands in the manifest, and in a rank's report."""
    return {
        "name": file.name,
        "size_bytes": file.size_bytes,
        "block_bytes": file.block_bytes,
        "crc32": list(file.crc32),
    }


def encode_named(one: NamedTensor) -> JSON:
    """Return a tensor in a file of others as it stands in the manifest."""
    return {
        "path": one.path,
        "tensor": one.tensor,
        "size_bytes": one.size_bytes,
        "block_bytes": one.block_bytes,
        "crc32": list(one.crc32),
    }


def parse_tensor(value: JSON, names: Sequence[str]) -> StoredTensor:
    """Read a tensor back; its coverage is not yet proved.

    Args:
        value: From `encode_tensor`.
        names: Of the files, by their places.

    Raises:
        ValueError: For missing or wrong fields.
    """
    fields = Fields(value, "a tensor", _TENSOR)
    spec = TensorSpec(
        fqn=fields.text("fqn"),
        key=fields.text("key"),
        shape=fields.integers("shape"),
        dtype=fields.text("dtype"),
    )
    return StoredTensor(spec=spec, chunks=parse_chunks(fields.array("chunks"), names, spec.name))


def parse_chunks(rows: Sequence[JSON], names: Sequence[str], tensor_name: str) -> tuple[Chunk, ...]:
    """Read chunks back.

    Args:
        rows: From `encode_chunks`.
        names: Of the files, by their places.
        tensor_name: For the errors.

    Raises:
        ValueError: For wrong numbers.
    """
    chunks = []
    for row in rows:
        if not isinstance(row, list) or len(row) != _CHUNK_NUMBERS:
            raise ValueError(f"a chunk of {tensor_name} is not four numbers")
        place, start, end, offset = row
        # Not isinstance: true is not a number here.
        are_integers = type(place) is type(start) is type(end) is type(offset) is int
        if not are_integers or min(row) < 0:
            raise ValueError(f"a chunk of {tensor_name} holds {row!s:.80}")
        if place >= len(names):
            raise ValueError(f"{tensor_name} lies in file {place} of {len(names)}")
        chunks.append(Chunk(names[place], start, end, offset))
    return tuple(chunks)


def parse_file(value: JSON) -> StoredFile:
    """Read a file back.

    Raises:
        ValueError: For missing or wrong fields.
    """
    fields = Fields(value, "a file", _FILE)
    return StoredFile(
        name=fields.text("name"),
        size_bytes=fields.integer("size_bytes", minimum=1),
        block_bytes=fields.integer("block_bytes", minimum=1),
        crc32=fields.integers("crc32"),
    )


def parse_named(value: JSON) -> NamedTensor:
    """Read a tensor in a file of others back.

    Raises:
        ValueError: For missing or wrong fields.
    """
    fields = Fields(value, "a named tensor", _NAMED)
    return NamedTensor.of(
        path=fields.text("path"),
        tensor=fields.text("tensor"),
        size_bytes=fields.integer("size_bytes", minimum=1),
        block_bytes=fields.integer("block_bytes", minimum=1),
        crc32=fields.integers("crc32"),
    )


def _spell(content: Mapping[str, JSON]) -> tuple[bytes, str]:
    """Return the text of all fields with the SHA-256 among them, and the SHA-256 of the others.

    The fields are spelled once, in two parts: those before "sha256" and those after it.
    """
    head = canonical_text({name: content[name] for name in content if name < "sha256"})[1:-1]
    tail = canonical_text({name: content[name] for name in content if name > "sha256"})[1:-1]
    others = ",".join(part for part in (head, tail) if part)
    digest = hashlib.sha256(f"{{{others}}}".encode("ascii")).hexdigest()
    del others
    named = f'"sha256":"{digest}"'
    return f"{{{','.join(part for part in (head, named, tail) if part)}}}".encode("ascii"), digest


def _require_consistent(tensors: Iterable[StoredTensor], files: Iterable[StoredFile]) -> None:
    file_of: dict[str, StoredFile] = {}
    for file in files:
        if file.name in file_of:
            raise ValueError(f"lists the file {file.name} twice")
        _require_sound_file(file)
        file_of[file.name] = file
    bytes_of: dict[str, list[tuple[int, int]]] = defaultdict(list)
    names: set[str] = set()
    for tensor in tensors:
        spec = tensor.spec
        if spec.name in names:
            raise ValueError(f"lists the tensor {spec.name} twice")
        names.add(spec.name)
        _require_covered(tensor)
        itemsize = spec.itemsize
        for file_name, start, end, offset in tensor.chunks:
            if file_name not in file_of:
                raise ValueError(f"{spec.name} lies in {file_name!r}, which is not a listed file")
            bytes_of[file_name].append((offset, offset + (end - start) * itemsize))
    for file in file_of.values():
        if isinstance(file, NamedTensor):
            _require_within(file, bytes_of[file.name])
        else:
            (_require_apart if file.is_object else _require_tiled)(file, bytes_of[file.name])


def _require_sound_file(file: StoredFile) -> None:
    if isinstance(file, NamedTensor):
        if not file.path.startswith("/"):
            raise ValueError(f"names {file.tensor} in {file.path!r}, which is not absolute")
    # Also keeps every path inside the store: such a name has no ".." and leads nowhere else.
    elif not SHARD_NAME.fullmatch(file.name) and not file.is_object:
        raise ValueError(
            f"lists the file {file.name!r}, which is not named like r00000.safetensors"
        )
    if file.block_bytes > MAX_BLOCK_BYTES:
        raise ValueError(
            f"{file.name} has blocks of {file.block_bytes} bytes, more than {MAX_BLOCK_BYTES}"
        )
    num_blocks = -(-file.size_bytes // file.block_bytes)
    if len(file.crc32) != num_blocks:
        raise ValueError(f"{file.name} has {len(file.crc32)} checksums for {num_blocks} blocks")
    if max(file.crc32) >= 1 << 32:
        raise ValueError(f"{file.name} has a checksum of more than 32 bits")


def _require_covered(tensor: StoredTensor) -> None:
    ranges = [(chunk.start, chunk.end) for chunk in tensor.chunks]
    if problem := find_cover_problem(ranges, Range(0, tensor.spec.numel), "elements"):
        raise ValueError(f"{tensor.spec.name}: {problem}")
    if ranges != sorted(ranges):
        raise ValueError(f"{tensor.spec.name}: its chunks are not ascending")


def _require_tiled(file: StoredFile, byte_ranges: list[tuple[int, int]]) -> None:
    data_start = min((start for start, _ in byte_ranges), default=file.size_bytes)
    if data_start == 0 or data_start % HEADER_ALIGN_BYTES:
        raise ValueError(f"{file.name}: its data starts at byte {data_start}, not after a header")
    data = Range(data_start, file.size_bytes)
    if problem := find_cover_problem(byte_ranges, data, "bytes"):
        raise ValueError(f"{file.name}: {problem}")


def _require_within(one: NamedTensor, byte_ranges: list[tuple[int, int]]) -> None:
    """Several tensors may be the same one of a file."""
    if not byte_ranges:
        raise ValueError(f"names {one.tensor} of {one.path}, and no tensor lies there")
    if max(end for _, end in byte_ranges) > one.size_bytes:
        raise ValueError(f"{one.tensor} of {one.path} has {one.size_bytes} bytes, and more is used")


def _require_apart(file: StoredFile, byte_ranges: list[tuple[int, int]]) -> None:
    """Of an object a checkpoint may use a part: a tensor that changed since lies elsewhere."""
    if not byte_ranges:
        raise ValueError(f"lists {file.name}, in which no tensor lies")
    at = HEADER_ALIGN_BYTES
    for start, end in sorted(byte_ranges):
        if start < at or end > file.size_bytes:
            raise ValueError(f"{file.name}: the bytes [{start}, {end}) are not those of one tensor")
        at = end
