"""AdaptiveHistogram: exact integer counts of scores in bins that are as fine as a fixed memory allows.

Input: flat float32 scores in [0, 1] and per-score integer weights. Output: the non-empty bins, highest
score first. Knows nothing of masks, regions or curves; `metrics.py` feeds it and `metrics_curves.py` reads
it.

A score becomes a 32-bit integer key whose order is the order of the scores: the bits of the float below
one half, and the mirrored bits of 1 - score above it. So tiny values and values close to 1 keep their
order, however peaked or saturated the maps are. Bins are runs of 2**level neighbouring keys, kept in pages
of 128 bins that exist only where scores fall. The level is the smallest at which all touched pages fit
the budget: a function of the set of scores alone, hence the same whatever the order of updates and merges.
Level 0 is exact: one bin per distinct float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Scores are scaled by 2**64, which makes subnormal floats normal. Zero gets the key 0, the smallest float32
# above it (2**-149, scaled 2**-85) the key 2**23, so that zero never shares a bin.
_SCALE = np.float32(2.0**64)
_OFFSET = (127 - 86) << 23  # the bits of 2**-86
HALF_KEY = (127 + 63 << 23) - _OFFSET  # 0.5, scaled 2**63
TOP_KEY = 2 * HALF_KEY  # 1.0
PAGE_BITS = 7
PAGE = 1 << PAGE_BITS
MAX_PAGES = 2048  # 2,048 pages x 128 bins x 4 counts x 8 bytes = 8.4 MB
_CHUNK = 1 << 15  # scores per step: its temporaries, 1 MB, stay in the processor's cache

Ints = NDArray[np.int64]


class Bins(NamedTuple):
    """Non-empty bins, highest score first. `lower` is the smallest score a bin can hold; `single` says
    that it can hold no other (its scores are true ties); counts are int64 [n]. `good` counts those of
    `negatives` that were added without any positive."""

    lower: NDArray[np.float64]
    single: NDArray[np.bool_]
    negatives: Ints
    positives: Ints
    weights: Ints
    good: Ints


def score_keys(scores: NDArray[np.float32], keys: NDArray[np.uint32], spare: NDArray[np.uint32]) -> None:
    """Write into `keys` order-preserving integers in [0, TOP_KEY], one per float32 score in [0, 1].

    All arrays have the same shape; `spare` is overwritten. Allocating them anew would take longer than
    everything that is done here.
    """
    distance, bits = keys.view(np.float32), keys.view(np.int32)
    np.subtract(np.float32(1), scores, out=distance)
    np.minimum(distance, scores, out=distance)
    np.multiply(distance, _SCALE, out=distance)
    np.subtract(bits, _OFFSET, out=bits)
    np.maximum(bits, 0, out=bits)  # 0.0, and -0.0 with it
    upper = spare.view(np.int32)
    np.subtract(np.float32(0.5), scores, out=spare.view(np.float32))
    np.right_shift(upper, 31, out=upper)  # all bits set where the score is above one half, else none
    # TOP_KEY - key where upper, without a branch: -x is ~x + 1.
    np.bitwise_xor(keys, spare, out=keys)
    np.bitwise_and(spare, np.uint32(TOP_KEY + 1), out=spare)
    np.add(keys, spare, out=keys)


def key_scores(keys: Ints) -> NDArray[np.float64]:
    """The scores of keys (the inverse of `score_keys`), float64 so that 1 - tiny stays exact."""
    folded = np.minimum(keys, TOP_KEY - keys)
    bits = np.where(folded > 0, folded + _OFFSET, 0).astype(np.int32)
    distance = bits.view(np.float32).astype(np.float64) / float(_SCALE)
    return np.where(keys > HALF_KEY, 1.0 - distance, distance)


class AdaptiveHistogram:
    """Four integer counts per bin: scores that were added without any positive, all others, the positives
    among these, and the weights of positives."""

    def __init__(self) -> None:
        self.level = 0
        # Page numbers in order of arrival. The counts of pages[i] are in slot i + 1; `_slots` holds for each
        # page number the first bin of its slot. Slot 0 is never filled: a zero says "no such page yet".
        self._pages: Ints = np.empty(0, np.int64)
        self._slots = self._empty_slots()
        self._counts = _no_counts()
        self._scratch = _scratch()

    def __getstate__(self) -> dict[str, Any]:
        counts = self._counts[:, : (self._pages.size + 1) << PAGE_BITS]
        return {"level": self.level, "pages": self._pages, "counts": counts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.level, self._pages, counts = state["level"], state["pages"], state["counts"]
        self._counts = _no_counts()
        self._counts[:, : counts.shape[1]] = counts
        self._slots = self._empty_slots()
        self._slots[self._pages] = np.arange(1, self._pages.size + 1) << PAGE_BITS
        self._scratch = _scratch()

    def add(
        self,
        scores: NDArray[np.float32],
        positive: NDArray[np.intp],
        weights: Ints,
    ) -> None:
        """Count float32 `scores` [n] in [0, 1]; `positive` [m] are indices of them, ascending, `weights`
        theirs. Call it once per photo: one without positives is counted apart."""
        kind = 1 if positive.size else 0
        starts = range(0, scores.size, _CHUNK)
        cuts = np.searchsorted(positive, [*starts, scores.size])
        for index, start in enumerate(starts):
            bins = self._locate(scores[start : start + _CHUNK])
            np.add.at(self._counts[kind], bins, 1)
            chosen = slice(cuts[index], cuts[index + 1])
            hits = bins[positive[chosen] - start]
            np.add.at(self._counts[2], hits, 1)
            np.add.at(self._counts[3], hits, weights[chosen])

    def merge(self, other: AdaptiveHistogram) -> None:
        """Add the counts of `other`, which stays as it is."""
        self._make_room(np.sort(other._pages), other.level)
        self._pour(other._pages, other._counts, other.level)

    def bins(self) -> Bins:
        """The non-empty bins, highest score first."""
        order = np.argsort(self._pages)[::-1]
        counts = self._counts.reshape(4, -1, PAGE)[:, order + 1, ::-1].reshape(4, -1)
        used = np.flatnonzero(counts[0] + counts[1])
        good, others, positives, weights = counts[:, used]
        place = PAGE - 1 - (used & (PAGE - 1))
        first = ((self._pages[order[used >> PAGE_BITS]] << PAGE_BITS) + place) << self.level
        single = _holds_one_score(first, self.level)
        return Bins(_round_up(key_scores(first)), single, good + others - positives, positives, weights, good)

    def _empty_slots(self) -> NDArray[np.intp]:
        return np.zeros((TOP_KEY >> (PAGE_BITS + self.level)) + 1, np.intp)

    def _locate(self, scores: NDArray[np.float32]) -> NDArray[np.intp]:
        """Indices into the counts, one per score, valid until the next call; makes the pages that are
        missing."""
        (keys, spare), (bins, pages, slots) = (arrays[:, : scores.size] for arrays in self._scratch)
        score_keys(scores, keys, spare)
        np.right_shift(keys, PAGE_BITS + self.level, out=pages)
        self._slots.take(pages, out=slots, mode="wrap")  # all are within; "raise" would copy first
        if slots.min(initial=1) == 0:
            self._make_room(_distinct(np.sort(pages[slots == 0])), self.level)
            np.right_shift(keys, PAGE_BITS + self.level, out=pages)  # the level may be another
            self._slots.take(pages, out=slots, mode="wrap")
        np.right_shift(keys, self.level, out=bins)
        np.bitwise_and(bins, PAGE - 1, out=bins)
        return np.bitwise_or(bins, slots, out=bins)

    def _make_room(self, pages: Ints, level: int) -> None:
        """Make the sorted `pages` of `level` exist, at the finest level at which all pages fit the budget."""
        target = max(level, self.level)
        pages = _distinct(pages >> (target - level))
        if target == self.level:
            pages = pages[self._slots[pages] == 0]
            if self._pages.size + pages.size <= MAX_PAGES:
                self._append(pages)
                return
        wanted = _distinct(np.sort(np.concatenate([self._pages >> (target - self.level), pages])))
        while wanted.size > MAX_PAGES:
            target += 1
            wanted = _distinct(wanted >> 1)
        self._coarsen(target, wanted)

    def _append(self, pages: Ints) -> None:
        self._slots[pages] = (np.arange(1, pages.size + 1) + self._pages.size) << PAGE_BITS
        self._pages = np.concatenate([self._pages, pages])

    def _coarsen(self, level: int, wanted: Ints) -> None:
        pages, counts, old_level = self._pages, self._counts, self.level
        self.level = level
        self._pages, self._slots = np.empty(0, np.int64), self._empty_slots()
        self._counts = _no_counts()
        self._append(wanted)
        self._pour(pages, counts, old_level)

    def _pour(self, pages: Ints, counts: Ints, level: int) -> None:
        """Add counts of a level that is at most this one's; their pages must exist here."""
        source = ((pages[:, None] << PAGE_BITS) + np.arange(PAGE)).ravel() >> (self.level - level)
        bins = self._slots[source >> PAGE_BITS] | (source & (PAGE - 1))
        for mine, theirs in zip(self._counts, counts, strict=True):
            np.add.at(mine, bins, theirs[PAGE : PAGE + bins.size])


def _no_counts() -> Ints:
    """Counts of no pages yet, with room for all: memory is taken as it is written to."""
    return np.zeros((4, (MAX_PAGES + 1) * PAGE), np.int64)


def _scratch() -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
    """Room for the temporaries of one chunk."""
    return np.empty((2, _CHUNK), np.uint32), np.empty((3, _CHUNK), np.intp)


def _distinct(ordered: Ints) -> Ints:
    """Sorted numbers without repetitions; faster than np.unique, which hashes."""
    return ordered[np.append(True, np.diff(ordered) > 0)] if ordered.size else ordered


def _holds_one_score(first: Ints, level: int) -> NDArray[np.bool_]:
    """Whether at most one float32 score falls into the bin that starts at each key (descending)."""
    single = (first == 0) | (level == 0)
    # Scores above one half are multiples of 2**-24, far sparser than the keys close to 1.
    upper = first[: np.searchsorted(-first, -HALF_KEY)]
    last = np.minimum(upper + (1 << level) - 1, TOP_KEY)
    single[: upper.size] = np.floor(key_scores(last) * 2**24) <= np.ceil(key_scores(upper) * 2**24)
    return single


def _round_up(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest float32 not below each value: comparing a float32 map with it rounds nothing across."""
    rounded = values.astype(np.float32)
    return np.where(rounded >= values, rounded, np.nextafter(rounded, np.float32(2))).astype(np.float64)
