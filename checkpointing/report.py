"""What a rank tells the coordinator about its shard, and the manifest made of all reports. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .fields import Fields
from .manifest import Chunk, Manifest, StoredFile, StoredTensor
from .manifest_text import encode_file, encode_tensor, parse_file, parse_tensor
from .spec import TensorSpec
from .strict_json import JSON


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What one rank wrote; both are empty for a rank that holds nothing."""

    files: tuple[StoredFile, ...] = ()
    tensors: tuple[StoredTensor, ...] = ()

    def encode(self) -> JSON:
        """Return the report as JSON."""
        return {
            "files": [encode_file(file) for file in self.files],
            "tensors": [encode_tensor(tensor) for tensor in self.tensors],
        }

    @classmethod
    def parse(cls, value: JSON) -> "ShardReport":
        """Read a report back.

        Raises:
            ValueError: For missing or wrong fields.
        """
        fields = Fields(value, "a report", frozenset(("files", "tensors")))
        return cls(
            files=tuple(parse_file(item) for item in fields.array("files")),
            tensors=tuple(parse_tensor(item) for item in fields.array("tensors")),
        )


def merge_reports(
    reports: Iterable[ShardReport],
    specs: Sequence[TensorSpec],
    *,
    step: int,
    token: str,
    state: Mapping[str, JSON],
    created_by: Mapping[str, JSON],
) -> Manifest:
    """Put the chunks of all ranks together; `encode_manifest` proves that they cover all.

    Raises:
        ValueError: If a rank wrote a tensor that is not in `specs`, or is there in another form.
    """
    reports = list(reports)
    wanted = {spec.name: spec for spec in specs}
    chunks: dict[str, list[Chunk]] = defaultdict(list)
    for tensor in (tensor for report in reports for tensor in report.tensors):
        name = tensor.spec.name
        if wanted.get(name) != tensor.spec:
            raise ValueError(
                f"a rank wrote {tensor.spec}, but the coordinator's specs have {wanted.get(name)}"
            )
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
    )
