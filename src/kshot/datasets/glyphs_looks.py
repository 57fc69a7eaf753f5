"""Which letters look alike: the classes of the dataset `glyphs`, and which split each one belongs to.

Two pictures are within `r` when all ink of each lies within `r` pixels of ink of the other (the Hausdorff distance of
their ink is at most `r`). Unlike a correlation of pixels it does not drown an accent in the letter below it, and stroke
weight matters little. Pictures are scaled to a box of 40 pixels, about 20 of the 28 that a learner sees, so:

- **SAME** = 2: one pixel of the final picture. Letters within it in half of the fonts that have both are one class: A
  and its Greek and Cyrillic twins, o and the Armenian օ, Ă and Ǎ.
- **CASE** = 4.5: a small letter that is a scaled copy of its capital has strokes up to half again as heavy (o O, s S,
  v V). Size and weight are what the distortions vary, so such a pair is one class; a and A, g and G stay two.
- **SPLIT** = 3: classes that are this near stay in one split even where they are two classes, so that nothing in `test`
  is almost something in `train`.

At SAME no class has more than 10 letters. At 3 every accented A would be one class, at 4.5 half of the alphabet: the
relation is not transitive, and union-find follows its chains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kshot.datasets.glyphs_fonts import BOX, CANVAS, RANK, SCRIPTS, Drawings, script

SAME = 2.0
SPLIT = 3.0
CASE = 4.5

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Looks:
    """The classes of drawn letters.

    Attributes:
        members: the letters of each class, sorted by code point; classes are sorted by (split, first letter).
        split: the split of each class.
        pictures: the pictures of each class, indices into the drawings.
        left_out: how many pictures were dropped because they look like those of another class.
    """

    members: tuple[str, ...]
    split: tuple[str, ...]
    pictures: tuple[Integers, ...]
    left_out: int


def group(drawings: Drawings, at_least: int = 6) -> Looks:
    """Groups letters that look alike into classes, and deals the classes out by script.

    A class that spans scripts goes to the first of train, val and test that any of its letters belongs to, and takes
    the classes with it that are almost alike. Where two classes share a look in a few fonts only (an italic и is a u),
    the later one loses those pictures.

    Args:
        drawings: what to group.
        at_least: the pictures that a class must keep.
    """
    n = len(drawings.letters)
    both, same, near = (np.zeros((n, n), dtype=np.int16) for _ in range(3))
    case = _case_pairs(drawings.letters)
    case_same = np.zeros(len(case), dtype=np.int16)
    alike: list[Integers] = []  # pairs of pictures
    for f in range(len(drawings.fonts)):
        rows = np.flatnonzero(drawings.font == f)
        letter = drawings.letter[rows]
        shape = _Shapes(drawings.ink[rows])
        a, b = shape.pairs(SPLIT)
        near[letter[a], letter[b]] += 1
        within = shape.within(a, b, SAME)
        same[letter[a[within]], letter[b[within]]] += 1
        alike.append(np.stack([rows[a[within]], rows[b[within]]], axis=1))
        both[np.ix_(letter, letter)] += 1
        place = np.full(n, -1)
        place[letter] = np.arange(len(rows))
        here = np.flatnonzero((place[case] >= 0).all(axis=1))
        case_same[here] += shape.within(place[case[here, 0]], place[case[here, 1]], CASE)
    most = np.maximum(both, 1)  # at least half of the fonts that have both
    one = 2 * same >= most
    scaled = case[2 * case_same >= most[case[:, 0], case[:, 1]]]
    one[scaled[:, 0], scaled[:, 1]] = True
    label = _components(one)
    bound = _components(one | (2 * near >= most))
    rank = np.array([RANK[SCRIPTS[script(letter)]] for letter in drawings.letters])
    first = np.full(n, len(RANK))
    np.minimum.at(first, bound, rank)
    return _collect(drawings, label, first[bound], np.concatenate(alike), at_least)


def _collect(drawings: Drawings, label: Integers, rank: Integers, alike: Integers, at_least: int) -> Looks:
    """Classes in order, without the pictures that look like one of an earlier class in the same font."""
    order = np.lexsort((label, rank))  # a label is the index of the class's first letter
    ordered = list(dict.fromkeys(label[order].tolist()))
    position = np.full(len(label), -1)
    position[ordered] = np.arange(len(ordered))
    owner = position[label][drawings.letter]
    a, b = alike[:, 0], alike[:, 1]
    keep = np.ones(len(owner), dtype=np.bool_)
    keep[a[owner[a] > owner[b]]] = False
    keep[b[owner[b] > owner[a]]] = False
    names = list(RANK)
    members, split, pictures = [], [], []
    for c, root in enumerate(ordered):
        kept = np.flatnonzero(keep & (owner == c))
        if len(kept) < at_least:
            continue
        members.append("".join(drawings.letters[i] for i in np.flatnonzero(label == root)))
        split.append(names[rank[root]])
        pictures.append(kept)
    return Looks(tuple(members), tuple(split), tuple(pictures), int((~keep).sum()))


class _Shapes:
    """The ink of one font's pictures, and what lies within a radius of it."""

    def __init__(self, pictures: NDArray[np.uint8]) -> None:
        edge = (CANVAS - BOX) // 2
        self.ink = torch.from_numpy(pictures[:, edge : edge + BOX, edge : edge + BOX] >= 128)
        self._reach: dict[float, torch.Tensor] = {}

    def reach(self, radius: float) -> torch.Tensor:
        """Bool `[n, BOX, BOX]`: the pixels within `radius` of ink."""
        if radius not in self._reach:
            self._reach[radius] = torch.from_numpy(_dilate(self.ink.numpy(), radius))
        return self._reach[radius]

    def within(self, a: Integers, b: Integers, radius: float) -> Bools:
        """Whether picture `a[k]` and picture `b[k]` are within `radius` of each other."""
        reach = self.reach(radius)
        i, j = torch.from_numpy(a), torch.from_numpy(b)
        beyond = (self.ink[i] & ~reach[j]) | (self.ink[j] & ~reach[i])
        return np.asarray(~beyond.flatten(1).any(dim=1))

    def pairs(self, radius: float) -> tuple[Integers, Integers]:
        """All pairs `a < b` of pictures within `radius`.

        A matrix product counts, for all pairs at once, the ink of one beyond the reach of the other, on every third
        row and column; the few pairs that pass are then looked at in full.
        """
        ink = self.ink[:, ::3, ::3].flatten(1).float()
        free = (~self.reach(radius)[:, ::3, ::3]).flatten(1).float()
        beyond = ink @ free.T
        a, b = np.nonzero(np.triu(np.asarray(torch.maximum(beyond, beyond.T) == 0), k=1))
        kept = self.within(a, b, radius)
        return a[kept], b[kept]


def _dilate(ink: Bools, radius: float) -> Bools:
    """The pixels within `radius` of ink: a disk, row by row."""
    r = int(radius)
    rows = [ink]  # rows[w]: within w pixels in the same row
    for w in range(1, r + 1):
        wider = rows[-1].copy()
        wider[..., w:] |= ink[..., :-w]
        wider[..., :-w] |= ink[..., w:]
        rows.append(wider)
    reach = rows[r].copy()
    for y in range(1, r + 1):
        row = rows[int((radius**2 - y**2) ** 0.5)]
        reach[:, y:] |= row[:, :-y]
        reach[:, :-y] |= row[:, y:]
    return reach


def _case_pairs(letters: tuple[str, ...]) -> Integers:
    """Pairs `[k, 2]` of letters, the smaller index first, that differ in case alone."""
    index = {letter: i for i, letter in enumerate(letters)}
    pairs = set()
    for letter, i in index.items():
        for other in (letter.upper(), letter.lower(), letter.title()):
            j = index.get(other, i)
            if i != j:
                pairs.add((min(i, j), max(i, j)))
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _components(adjacent: Bools) -> Integers:
    """Union-find: for each node the smallest node that it is connected to, `[n]`."""
    root = np.arange(len(adjacent))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = int(root[i])
        return i

    for i, j in np.argwhere(adjacent):
        a, b = find(int(i)), find(int(j))
        root[max(a, b)] = min(a, b)
    return np.array([find(i) for i in range(len(root))], dtype=np.int64)
