"""The tensors that a store has already: in objects beside its checkpoints, or named in files of
others. Pure, without torch."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..format.json_fields import Fields
from ..format.manifest import Chunk, Manifest, NamedTensor, StoredFile, StoredTensor
from ..format.manifest_json import (
    encode_file,
    encode_named,
    encode_tensor,
    parse_file,
    parse_named,
    parse_tensor,
)
from ..format.strict_json import JSON

_FIELDS = frozenset(("tensors", "files", "named"))


@dataclass(frozen=True, kw_only=True)
class StoredBefore:
    """Tensors, none of which lies in a shard, and where they lie."""

    tensors: tuple[StoredTensor, ...] = ()
    files: tuple[StoredFile, ...] = ()
    """The objects."""
    named: tuple[NamedTensor, ...] = ()
    """In files of others."""

    @classmethod
    def of(
        cls,
        tensors: Sequence[StoredTensor],
        files: Sequence[StoredFile],
        named: Sequence[NamedTensor] = (),
    ) -> "StoredBefore":
        """Return those of a checkpoint's tensors of which nothing lies in a shard."""
        places = {file.name for file in files if file.is_object} | {one.name for one in named}
        return _only(
            [t for t in tensors if t.chunks and all(c.file in places for c in t.chunks)],
            files,
            named,
        )

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> "StoredBefore":
        """Return those of a checkpoint's tensors of which nothing lies in a shard."""
        return cls.of(manifest.tensors, manifest.files, manifest.named)

    def in_objects(self) -> "StoredBefore":
        """Return the tensors of which nothing lies in a file of others."""
        return self.of(self.tensors, self.files)

    @cached_property
    def names(self) -> frozenset[str]:
        """The tensors' names."""
        return frozenset(tensor.spec.name for tensor in self.tensors)

    @property
    def objects(self) -> frozenset[str]:
        """The objects' names."""
        return frozenset(file.name for file in self.files)

    def only(self, names: Collection[str]) -> "StoredBefore":
        """Return these tensors, and the objects in which they lie."""
        if self.names <= frozenset(names):
            return self
        return _only([t for t in self.tensors if t.spec.name in names], self.files, self.named)

    def with_also(self, other: "StoredBefore") -> "StoredBefore":
        """Return the tensors of both; where both have one, it is the other's."""
        tensors = {t.spec.name: t for t in (*self.tensors, *other.tensors)}
        files = {file.name: file for file in (*self.files, *other.files)}
        named = _each_once((*self.named, *other.named))
        return _only([*tensors.values()], [*files.values()], named)

    def with_paths(self, path_of: Callable[[NamedTensor], str]) -> "StoredBefore":
        """Return the same with files of others called as they are now."""
        now = {
            one.name: NamedTensor.of(
                path=path_of(one),
                tensor=one.tensor,
                size_bytes=one.size_bytes,
                block_bytes=one.block_bytes,
                crc32=one.crc32,
            )
            for one in self.named
        }

        def moved(chunk: Chunk) -> Chunk:
            return chunk._replace(file=now[chunk.file].name) if chunk.file in now else chunk

        tensors = (replace(t, chunks=tuple(map(moved, t.chunks))) for t in self.tensors)
        return replace(self, tensors=tuple(tensors), named=_each_once(now.values()))

    def encode(self) -> JSON:
        """Return it as JSON."""
        everywhere = (*self.files, *self.named)
        place_of = {file.name: place for place, file in enumerate(everywhere)}
        return {
            "tensors": [encode_tensor(tensor, place_of) for tensor in self.tensors],
            "files": [encode_file(file) for file in self.files],
            "named": [encode_named(one) for one in self.named],
        }

    @classmethod
    def parse(cls, value: JSON) -> "StoredBefore":
        """Read back what `encode` gave.

        Raises:
            ValueError: For missing or wrong fields.
        """
        fields = Fields(value, "what was stored before", _FIELDS)
        files = tuple(parse_file(item) for item in fields.array("files"))
        named = tuple(parse_named(item) for item in fields.array("named"))
        names = [file.name for file in (*files, *named)]
        return cls(
            tensors=tuple(parse_tensor(item, names) for item in fields.array("tensors")),
            files=files,
            named=named,
        )


NOTHING_STORED = StoredBefore()


def _each_once(named: Iterable[NamedTensor]) -> tuple[NamedTensor, ...]:
    return tuple({one.name: one for one in named}.values())


def _only(
    tensors: Sequence[StoredTensor], files: Sequence[StoredFile], named: Sequence[NamedTensor]
) -> StoredBefore:
    used = {chunk.file for tensor in tensors for chunk in tensor.chunks}
    return StoredBefore(
        tensors=tuple(tensors),
        files=tuple(file for file in files if file.name in used),
        named=tuple(one for one in named if one.name in used),
    )
