"""The tensors that a store has already, in objects beside its checkpoints. Pure, without torch."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..format.json_fields import Fields
from ..format.manifest import Manifest, StoredFile, StoredTensor
from ..format.manifest_json import encode_file, encode_tensor, parse_file, parse_tensor
from ..format.strict_json import JSON


@dataclass(frozen=True, kw_only=True)
class StoredBefore:
    """Tensors, each wholly in objects, and these objects."""

    tensors: tuple[StoredTensor, ...] = ()
    files: tuple[StoredFile, ...] = ()

    @classmethod
    def of(cls, tensors: Sequence[StoredTensor], files: Sequence[StoredFile]) -> "StoredBefore":
        """Return those of a checkpoint's tensors that lie in objects alone."""
        objects = {file.name for file in files if file.is_object}
        return _only(
            [t for t in tensors if t.chunks and all(c.file in objects for c in t.chunks)], files
        )

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> "StoredBefore":
        """Return those of a checkpoint's tensors that lie in objects alone."""
        return cls.of(manifest.tensors, manifest.files)

    @property
    def names(self) -> frozenset[str]:
        """The tensors' names."""
        return frozenset(tensor.spec.name for tensor in self.tensors)

    @property
    def objects(self) -> frozenset[str]:
        """The objects' names."""
        return frozenset(file.name for file in self.files)

    def only(self, names: Collection[str]) -> "StoredBefore":
        """Return these tensors, and the objects in which they lie."""
        return _only([t for t in self.tensors if t.spec.name in names], self.files)

    def encode(self) -> JSON:
        """Return it as JSON."""
        place_of = {file.name: place for place, file in enumerate(self.files)}
        return {
            "tensors": [encode_tensor(tensor, place_of) for tensor in self.tensors],
            "files": [encode_file(file) for file in self.files],
        }

    @classmethod
    def parse(cls, value: JSON) -> "StoredBefore":
        """Read back what `encode` gave.

        Raises:
            ValueError: For missing or wrong fields.
        """
        fields = Fields(value, "what was stored before", frozenset(("tensors", "files")))
        files = tuple(parse_file(item) for item in fields.array("files"))
        names = [file.name for file in files]
        return cls(
            tensors=tuple(parse_tensor(item, names) for item in fields.array("tensors")),
            files=files,
        )


NOTHING_STORED = StoredBefore()


def _only(tensors: Sequence[StoredTensor], files: Sequence[StoredFile]) -> StoredBefore:
    used = {chunk.file for tensor in tensors for chunk in tensor.chunks}
    return StoredBefore(
        tensors=tuple(tensors), files=tuple(file for file in files if file.name in used)
    )
