"""What a rank tells the coordinator about its shard, and the manifest made of all reports. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..format.gc_pause import collector_held
from ..format.json_fields import Fields
from ..format.manifest import Chunk, Manifest, StoredFile, StoredTensor
from ..format.manifest_json import encode_chunks, encode_file, parse_chunks, parse_file
from ..format.strict_json import JSON
from ..format.tensor_spec import TensorSpec
from .stored_before import StoredBefore

_ROW_LENGTH = 5


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What one rank wrote; both are empty for a rank that holds nothing."""

    files: tuple[StoredFile, ...] = ()
    tensors: tuple[StoredTensor, ...] = ()
    reused_bytes: int = 0
    """Of the files, those that were there before under another name."""

    def encode(self) -> JSON:
        """Return the report as JSON."""
        place_of = {file.name: place for place, file in enumerate(self.files)}
        return {
            "files": [encode_file(file) for file in self.files],
            "tensors": [
                [
                    *(tensor.spec.fqn, tensor.spec.key, list(tensor.spec.shape), tensor.spec.dtype),
                    encode_chunks(tensor.chunks, place_of),
                ]
                for tensor in self.tensors
            ],
            "reused_bytes": self.reused_bytes,
        }

    @classmethod
    def parse(cls, value: JSON, known: Mapping[str, TensorSpec]) -> "ShardReport":
        """Read a report back.

        Args:
            value: From `encode`.
            known: By name, specs that are not made anew where the report has the same: a thousand
                ranks say the same of thousands of tensors.

        Raises:
            ValueError: For missing or wrong fields.
        """
        fields = Fields(value, "a report", frozenset(("files", "tensors", "reused_bytes")))
        files = tuple(parse_file(item) for item in fields.array("files"))
        names = [file.name for file in files]
        return cls(
            files=files,
            tensors=tuple(_parse_row(item, names, known) for item in fields.array("tensors")),
            reused_bytes=fields.integer("reused_bytes"),
        )


def reported_files(value: JSON) -> list[StoredFile]:
    """Return the files of a report that was encoded, without its tensors, which may be many.

    Raises:
        ValueError: For missing or wrong fields.
    """
    fields = Fields(value, "a report", frozenset(("files", "tensors", "reused_bytes")))
    return [parse_file(item) for item in fields.array("files")]


def joined(reports: Iterable[ShardReport]) -> ShardReport:
    """Return what a rank wrote in several files as one report."""
    parts = list(reports)
    return ShardReport(
        files=tuple(file for part in parts for file in part.files),
        tensors=tuple(tensor for part in parts for tensor in part.tensors),
        reused_bytes=sum(part.reused_bytes for part in parts),
    )


def _parse_row(value: JSON, names: Sequence[str], known: Mapping[str, TensorSpec]) -> StoredTensor:
    if not isinstance(value, list) or len(value) != _ROW_LENGTH:
        raise ValueError("a tensor of a report is not a name, a key, a shape, a dtype and chunks")
    fqn, key, shape, dtype, rows = value
    if not all(isinstance(text, str) for text in (fqn, key, dtype)):
        raise ValueError(f"a report names a tensor {fqn!r:.40}, {key!r:.40}, {dtype!r:.40}")
    if not isinstance(shape, list) or not all(type(dim) is int for dim in shape):
        raise ValueError(f"a report gives {key}/{fqn} the shape {shape!r:.40}")
    name = f"{key}/{fqn}"
    if not isinstance(rows, list):
        raise ValueError(f"a report has no chunks of {name}")
    spec = known.get(name)
    if spec is None or (spec.fqn, spec.shape, spec.dtype) != (fqn, tuple(shape), dtype):
        spec = TensorSpec(fqn=fqn, key=key, shape=tuple(shape), dtype=dtype)
    return StoredTensor(spec=spec, chunks=parse_chunks(rows, names, name))


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
