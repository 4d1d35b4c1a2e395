"""Make a checkpoint of what the ranks have written: the coordinator's part, in whatever process.

It needs no torch, so the process that writes shards can do it while the training continues.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..format.json_fields import Fields
from ..format.manifest import Manifest
from ..format.strict_json import JSON
from ..format.tensor_spec import TensorSpec
from ..storage.commit_protocol import CommitProtocol, SaveToken
from ..storage.local_files import full_disk_told
from .shard_report import ShardReport, merge_reports
from .stored_before import NOTHING_STORED, StoredBefore

_FIELDS = frozenset(("attempt", "reports", "specs", "state", "created_by", "kept"))


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The reports of the ranks on their shards, and everything else in the manifest."""

    attempt: SaveToken
    reports: Sequence[JSON]
    """By rank, of each file what `WrittenFile.encode` gives."""
    specs: Sequence[TensorSpec]
    state: Mapping[str, JSON]
    created_by: Mapping[str, JSON]
    kept: StoredBefore = NOTHING_STORED
    """What was there before and is named without that anyone has written it."""

    def manifest(self) -> Manifest:
        """Return what the checkpoint will consist of.

        Raises:
            ValueError: If a rank wrote what is no tensor of the checkpoint.
        """
        return self._merged(self._parsed())

    def _parsed(self) -> list[ShardReport]:
        known = {spec.name: spec for spec in self.specs}
        return [ShardReport.parse(report, known) for report in self.reports]

    def _merged(self, reports: Sequence[ShardReport]) -> Manifest:
        return merge_reports(
            reports,
            self.specs,
            step=self.attempt.step,
            token=self.attempt.token,
            state=self.state,
            created_by=self.created_by,
            kept=self.kept,
        )

    def publish(self, publishing: CommitProtocol) -> int:
        """Prove that the shards cover all, and make them a checkpoint; return the bytes written.

        Raises:
            OSError: From the storage.
            SaveFailedError: See `CommitProtocol.publish`.
            ValueError: If an element is missing or there twice.
        """
        reports = self._parsed()
        reused_bytes = sum(report.reused_bytes for report in reports)
        with full_disk_told(publishing.folder, publishing.files):
            return publishing.publish(self.attempt, self._merged(reports)) - reused_bytes

    @classmethod
    def parse(cls, value: JSON) -> "Commit":
        """Read back what `CommitText` gave, in a process of the same version.

        Raises:
            ValueError: For missing or wrong fields.
        """
        fields = Fields(value, "the commit", _FIELDS)
        return cls(
            attempt=SaveToken.parse(fields.mapping("attempt")),
            reports=fields.array("reports"),
            specs=[_parse_spec(row) for row in fields.array("specs")],
            state=fields.mapping("state"),
            created_by=fields.mapping("created_by"),
            kept=StoredBefore.parse(fields.mapping("kept")),
        )


class CommitText:
    """Spells commit after commit as JSON, for another process.

    What is as it was at the one before is not spelled again: the training waits.
    """

    def __init__(self) -> None:
        self._specs: list[TensorSpec] = []
        self._kept = NOTHING_STORED
        self._texts = {"specs": _spell([]), "kept": _spell(NOTHING_STORED.encode())}

    def of(self, commit: Commit) -> bytes:
        """Return what `Commit.parse` reads."""
        if (specs := list(commit.specs)) != self._specs:
            rows: list[JSON] = [[s.fqn, s.key, list(s.shape), s.dtype] for s in specs]
            self._specs, self._texts["specs"] = specs, _spell(rows)
        if commit.kept is not self._kept:
            self._kept, self._texts["kept"] = commit.kept, _spell(commit.kept.encode())
        texts = {
            "attempt": _spell(commit.attempt.encode()),
            "reports": _spell(list(commit.reports)),
            "state": _spell(dict(commit.state)),
            "created_by": _spell(dict(commit.created_by)),
            **self._texts,
        }
        fields = ",".join(f'"{name}":{text}' for name, text in texts.items())
        return f"{{{fields}}}".encode("ascii")


def _spell(value: JSON) -> str:
    # What is circular has been refused: to look for it takes a third of the time.
    return json.dumps(value, check_circular=False)


def _parse_spec(row: JSON) -> TensorSpec:
    names = ("fqn", "key", "shape", "dtype")
    if not isinstance(row, list) or len(row) != len(names):
        raise ValueError(f"a tensor of the commit is not {', '.join(names)}: {row!r:.60}")
    fields = Fields(dict(zip(names, row, strict=True)), "a tensor of the commit", frozenset(names))
    return TensorSpec(
        fqn=fields.text("fqn"),
        key=fields.text("key"),
        shape=fields.integers("shape"),
        dtype=fields.text("dtype"),
    )
