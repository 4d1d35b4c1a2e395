"""A rank's report to the coordinator about its shard, and the manifest made of all reports. Pure.

What lies where in a file travels as text. It is the same save after save, so the rank spells it
once, and the coordinator, for whose process it is, passes it on as it is: the training waits.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..format.gc_pause import collector_held
from ..format.json_fields import Fields
from ..format.manifest import Chunk, Manifest, StoredFile, StoredTensor
from ..format.manifest_json import encode_file, parse_chunks, parse_file
from ..format.strict_json import JSON
from ..format.tensor_spec import TensorSpec
from .stored_before import StoredBefore

_ROW_LENGTH = 7
_FILE_FIELDS = frozenset(("file", "rows", "reused_bytes"))


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A file as the rank that has written it reports it."""

    record: StoredFile
    rows: str
    """From `spell_rows`."""
    is_reused: bool = False
    """Whether it was there before under another name."""

    def encode(self) -> JSON:
        """Return it as JSON; a report is a list of these."""
        reused_bytes = self.record.size_bytes if self.is_reused else 0
        file = encode_file(self.record)
        return {"file": file, "rows": self.rows, "reused_bytes": reused_bytes}


def spell_rows(places: Iterable[tuple[TensorSpec, int, int, int]]) -> str:
    """Return what lies where in a file: of each tensor a range of elements, and its offset."""
    rows = [
        (spec.fqn, spec.key, spec.shape, spec.dtype, start, end, offset)
        for spec, start, end, offset in places
    ]
    return json.dumps(rows, check_circular=False)


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What one rank wrote, as the coordinator reads it; empty for a rank that holds nothing."""

    files: tuple[StoredFile, ...] = ()
    tensors: tuple[StoredTensor, ...] = ()
    reused_bytes: int = 0
    """Of the files, those that were there before under another name."""

    @classmethod
    def parse(cls, value: JSON, known: Mapping[str, TensorSpec]) -> "ShardReport":
        """Read a report back.

        Args:
            value: From `WrittenFile.encode`, of each file.
            known: By name, specs that are not made anew where the report has the same: a thousand
                ranks say the same of thousands of tensors.

        Raises:
            ValueError: For missing or wrong fields.
        """
        files: list[StoredFile] = []
        tensors: list[StoredTensor] = []
        reused_bytes = 0
        for one in _fields_of(value):
            file = parse_file(one.mapping("file"))
            files.append(file)
            rows = json.loads(one.text("rows"))
            if not isinstance(rows, list):
                raise ValueError(f"a report says of {file.name} no list of tensors")
            tensors += (_parse_row(row, file.name, known) for row in rows)
            reused_bytes += one.integer("reused_bytes")
        return cls(files=tuple(files), tensors=tuple(tensors), reused_bytes=reused_bytes)


def reported_files(value: JSON) -> list[StoredFile]:
    """Return the files of a report that was encoded, without its tensors, which may be many.

    Raises:
        ValueError: For missing or wrong fields.
    """
    return [parse_file(one.mapping("file")) for one in _fields_of(value)]


def _fields_of(value: JSON) -> Iterator[Fields]:
    if not isinstance(value, list):
        raise ValueError(f"a report is no list of files: {value!r:.60}")
    return (Fields(item, "a file of a report", _FILE_FIELDS) for item in value)


def _parse_row(value: JSON, file: str, known: Mapping[str, TensorSpec]) -> StoredTensor:
    if not isinstance(value, list) or len(value) != _ROW_LENGTH:
        raise ValueError(
            "a tensor of a report is not a name, a key, a shape, a dtype, a range and an offset"
        )
    fqn, key, shape, dtype, *chunk = value
    if not all(isinstance(text, str) for text in (fqn, key, dtype)):
        raise ValueError(f"a report names a tensor {fqn!r:.40}, {key!r:.40}, {dtype!r:.40}")
    if not isinstance(shape, list) or not all(type(dim) is int for dim in shape):
        raise ValueError(f"a report gives {key}/{fqn} the shape {shape!r:.40}")
    name = f"{key}/{fqn}"
    spec = known.get(name)
    if spec is None or (spec.fqn, spec.shape, spec.dtype) != (fqn, tuple(shape), dtype):
        spec = TensorSpec(fqn=fqn, key=key, shape=tuple(shape), dtype=dtype)
    return StoredTensor(spec=spec, chunks=parse_chunks([[0, *chunk]], [file], name))


@collector_held()
def merge_reports(
    reports: Iterable[ShardReport],
    specs: Sequence[TensorSpec],
    *,
    step: int,
    token: str,
    state: Mapping[str, JSON],
    created_by: Mapping[str, JSON],
    kept: StoredBefore | None = None,
) -> Manifest:
    """Put the chunks of all ranks together; `encode_manifest` proves that they cover all.

    Args:
        reports: By rank.
        specs: Of all tensors.
        step: Of the checkpoint.
        token: Of the attempt.
        state: As in the manifest.
        created_by: The same.
        kept: What was there before, and is named without that anyone has written it.

    Raises:
        ValueError: If a rank wrote a tensor that is not in `specs`, or is there in another form.
    """
    reports = list(reports)
    if kept is not None:
        reports.append(ShardReport(files=kept.files, tensors=kept.tensors))
    wanted = {spec.name: spec for spec in specs}
    chunks: dict[str, list[Chunk]] = defaultdict(list)
    for tensor in (tensor for report in reports for tensor in report.tensors):
        name = tensor.spec.name
        spec = wanted.get(name)
        if spec is not tensor.spec and spec != tensor.spec:
            raise ValueError(f"a rank wrote {tensor.spec}, but the coordinator's specs have {spec}")
        chunks[name].extend(tensor.chunks)
    return Manifest(
        step=step,
        token=token,
        created_by=created_by,
        state=state,
        tensors=tuple(
            StoredTensor(
                spec=spec,
                chunks=tuple(sorted(chunks[spec.name], key=lambda chunk: chunk.start)),
            )
            for spec in specs
        ),
        files=tuple(file for report in reports for file in report.files),
        named=() if kept is None else kept.named,
    )
