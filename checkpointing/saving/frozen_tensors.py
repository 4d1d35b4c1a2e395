"""What a rank knows of its frozen tensors: which of them a store has as they are now.

Whether a tensor is as it was is decided at a save from its place in memory, torch's counter of
changes and a sample of its bytes, for which the training waits a moment only. A change may evade
all three: `tensor.data[3] = 0` counts nowhere. So before the checkpoint is committed, all bytes are
summed up beside the training and compared with the sum of what was stored; if they differ, this
save fails, and from the next one on the tensor is written with the rest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from ..errors import SaveFailedError
from ..format.fragment import Fragment
from ..format.strict_json import JSON
from .content_sum import Sum, begin_sum, sample_bytes
from .side_thread import SideThread
from .stored_before import StoredBefore

_MAX_NAMES_SHOWN = 3

Place = tuple[str, int, int]
"""A tensor's name, and the range of its elements that a rank holds."""


class _Look(NamedTuple):
    """What is seen of a fragment without reading it all."""

    address: int
    version: int
    sample: bytes


class FrozenTensors:
    """One for each store, on every rank.

    A save asks `look` on each rank, lets all ranks know, and then `divide`, which gives the same
    on all of them.
    """

    def __init__(self) -> None:
        self._token: str | None = None
        self._stored = StoredBefore()
        self._names: frozenset[str] = frozenset()
        # Made anew by each save, and never changed: the training waits for every entry.
        self._known_looks: Mapping[Place, _Look] = {}
        self._known_totals: Mapping[Place, int] = {}
        """Of what the store has; there may be looks at more than that."""
        self._looks: Mapping[Place, _Look] = {}
        self._restless: set[str] = set()
        self._is_doubtful = False

    @property
    def objects(self) -> frozenset[str]:
        """On the coordinator, the objects that the next save may name."""
        return self._stored.objects

    @property
    def stored(self) -> StoredBefore:
        """What the store has: on the coordinator, and after `loaded` on every rank."""
        return self._stored

    @property
    def names(self) -> frozenset[str]:
        """The tensors that the store has; the same on every rank."""
        return self._names

    @property
    def is_doubtful(self) -> bool:
        """Whether a save has failed since, perhaps because an object is gone."""
        return self._is_doubtful

    def forget(self) -> None:
        """Rely on nothing that was stored: the next save writes all frozen tensors. No collective.

        Where it is called on one rank alone, all write them.
        """
        self._token = None

    def adopt(self, other: "FrozenTensors") -> None:
        """Know what another store has, whose objects this one has too by now. No collective.

        Where not every rank calls it, the next save writes all frozen tensors.
        """
        self._token, self._stored, self._names = other._token, other._stored, other._names
        self._known_looks, self._known_totals = other._known_looks, other._known_totals
        self._restless |= other._restless
        self._is_doubtful = False

    def look(self, frozen: Sequence[Fragment]) -> JSON:
        """Return what the other ranks need to know. No collective.

        Args:
            frozen: This rank's fragments of the frozen tensors.
        """
        samples = sample_bytes([fragment.data for fragment in frozen])
        looks: dict[Place, _Look] = {}
        changed = set()
        for fragment, sample in zip(frozen, samples, strict=True):
            data, place = fragment.data, place_of(fragment)
            looks[place] = look = _Look(data.data_ptr(), _version(data), sample)
            if self._differs(place, look, data):
                changed.add(place[0])
        self._looks = looks
        if self._token is not None:
            # Of what has changed once more than likely it will again.
            self._restless |= changed & self._names
        return {
            "token": self._token,
            "restless": sorted(self._restless),
            "names": sorted({f.spec.name for f in frozen}),
        }

    def divide(self, frozen: Sequence[Fragment], everyone: Sequence[Any]) -> "FrozenPart":
        """Return what a save writes of the frozen tensors, and what it names. No collective.

        Args:
            frozen: As given to `look`.
            everyone: What `look` has returned on each rank.
        """
        restless = {name for one in everyone for name in one["restless"]}
        names = {name for one in everyone for name in one["names"]}
        self._restless |= restless
        is_known = {one["token"] for one in everyone} == {self._token} != {None}
        kept = (self._names & names) - restless if is_known else frozenset[str]()
        new = names - kept - restless
        return FrozenPart(
            self,
            stored=self._stored.only(kept),
            kept=[f for f in frozen if f.spec.name in kept],
            new=tuple(f for f in frozen if f.spec.name in new),
            changing=tuple(f for f in frozen if f.spec.name in restless),
            names=frozenset(kept | new),
        )

    def loaded(self, token: str, stored: StoredBefore, frozen: Sequence[Fragment]) -> None:
        """Note what was loaded just now: it is as it is stored. Reads all of it. On every rank.

        Args:
            token: Of the checkpoint.
            stored: What the checkpoint has in objects.
            frozen: This rank's fragments of the frozen tensors.
        """
        self.look(frozen)
        known = [f for f in frozen if f.spec.name in stored.names]
        sums = [begin_sum(fragment.data) for fragment in known]
        self._known_looks = self._looks
        self._known_totals = {place_of(f): one.finish() for f, one in zip(known, sums, strict=True)}
        self._token, self._stored, self._names = token, stored, stored.names
        self._restless, self._is_doubtful = set(), False

    def failed(self, names: Iterable[str] = ()) -> None:
        """Note that a save has failed, and which tensors have changed unseen."""
        self._restless |= set(names)
        self._is_doubtful = True

    def committed(
        self, token: str, part: "FrozenPart", stored: StoredBefore, totals: Mapping[Place, int]
    ) -> None:
        """Note what a save that is committed has stored. On every rank."""
        self._known_looks, self._known_totals = part.looks, totals
        self._token, self._stored, self._names = token, stored, part.names
        self._is_doubtful = False

    @property
    def known_totals(self) -> Mapping[Place, int]:
        """The sums of fragments as the store has them."""
        return self._known_totals

    @property
    def looks(self) -> Mapping[Place, _Look]:
        """What the last `look` has seen."""
        return self._looks

    def _differs(self, place: Place, look: _Look, data: torch.Tensor) -> bool:
        """Whether a fragment is not known to be as the store has it."""
        known, total = self._known_looks.get(place), self._known_totals.get(place)
        if known is None or total is None or known.sample != look.sample:
            return True
        # Moved, or counted as changed: the bytes may be the same all the same.
        return known != look and begin_sum(data).finish() != total


class FrozenPart:
    """The frozen tensors of one save."""

    def __init__(
        self,
        tensors: FrozenTensors,
        *,
        stored: StoredBefore,
        kept: Sequence[Fragment],
        new: tuple[Fragment, ...],
        changing: tuple[Fragment, ...],
        names: frozenset[str],
    ) -> None:
        self.stored = stored
        """On the coordinator, what the checkpoint names of what was there before."""
        self.new = new
        """What this rank writes to an object."""
        self.changing = changing
        """What this rank writes with the rest."""
        self.names = names
        """What is in objects when this is committed; the same on every rank."""
        self.looks = tensors.looks
        self._tensors = tensors
        self._kept: Sequence[Fragment] = kept
        self._expected = tensors.known_totals
        self._on_host: list[tuple[Fragment, torch.Tensor]] = []
        self._sums: dict[Place, Sum] = {}
        self._totals: dict[Place, int] = {}
        self._thread: SideThread | None = None
        self._error: BaseException | None = None

    def begin_proof(
        self,
        copies: Sequence[torch.Tensor] | None = None,
        *,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to sum up the bytes, beside what this process does. No collective.

        Args:
            copies: What is written of `new`, on the host, and not changed before `prove` returns;
                None: the tensors themselves do not change before that.
            after: Returns once the training waits for nothing of this save any more; called in the
                thread, which would take a processor from the copy that it does wait for.
        """
        written = [f.data for f in self.new] if copies is None else copies
        # What is on a device is summed up there in the order of what it is given to do: it cannot
        # change before. The kept is on the same device then as it was.
        sources = [
            (f, copy if f.data.is_cpu else f.data)
            for f, copy in zip(self.new, written, strict=True)
        ]
        sources += [(f, f.data) for f in self._kept]
        self._on_host = [(f, data) for f, data in sources if data.is_cpu]
        self._sums = {place_of(f): begin_sum(data) for f, data in sources if not data.is_cpu}
        if sources:
            self._thread = SideThread(partial(self._sum_up, after))

    def is_settled(self) -> bool:
        """Return whether `prove` returns at once."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> None:
        """Return once no memory is read any more."""
        if self._thread is not None:
            self._thread.join()

    def prove(self) -> None:
        """Wait for the sums; return if what is named is what the tensors hold. No collective.

        Raises:
            SaveFailedError: A tensor is not what the store has under its name.
        """
        self.wait()
        kept, self._kept = self._kept, ()  # their memory may go
        self.new = self.changing = ()
        if self._error is not None:
            raise self._error
        places = map(place_of, kept)
        wrong = {place[0] for place in places if self._totals.get(place) != self._expected[place]}
        if wrong:
            self._tensors.failed(wrong)
            shown = ", ".join(sorted(wrong)[:_MAX_NAMES_SHOWN])
            raise SaveFailedError(
                f"{len(wrong)} of the frozen tensors ({shown}) changed, and torch did not count "
                "it (such as tensor.data[...] = ...), so that the checkpoint would name what was "
                "stored before. The next save writes them again"
            )

    def failed(self) -> None:
        """Note that it is not committed."""
        self._tensors.failed()

    def committed(self, token: str, stored: StoredBefore) -> None:
        """Note that it is committed. On every rank.

        Args:
            token: Of the attempt.
            stored: On the coordinator, what the checkpoint has in objects.
        """
        self._tensors.committed(token, self, stored, self._totals)

    def _sum_up(self, after: Callable[[], None]) -> None:
        try:
            after()
            self._totals = {place: one.finish() for place, one in self._sums.items()}
            self._totals |= {place_of(f): begin_sum(data).finish() for f, data in self._on_host}
        except BaseException as error:
            self._error = error
        self._sums, self._on_host = {}, []


def place_of(fragment: Fragment) -> Place:
    """Return which part of which tensor a fragment is."""
    return (fragment.spec.name, fragment.start, fragment.end)


def _version(data: torch.Tensor) -> int:
    # A tensor made under inference_mode has no counter, and cannot change outside of it.
    return -1 if data.is_inference() else data._version
