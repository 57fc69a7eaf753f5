"""`glyphs`: letters of many scripts, drawn from the fonts that matplotlib installs. No download, no file to lose.

Classes are looks, not code points: letters that look alike across scripts (A, А, Α) are one class. Train holds Latin
and Greek, val Cyrillic and Lao, test Armenian and Georgian, less what looks like a class of an earlier split. Each
class has 20 examples, as in Omniglot: its letters in different fonts, distorted like handwriting.

`glyphs_fonts` finds and draws the letters, `glyphs_looks` says what counts as one look and keeps the splits apart,
`glyphs_warp` distorts. There is no option that turns letters by quarters, as Omniglot has: a turned letter is often
another one (u and n, N and Z, Latin h and Armenian ղ), and splits would share looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot import randomness
from kshot.datasets import cache, glyphs_fonts, glyphs_looks, glyphs_warp
from kshot.datasets.dataset import Dataset
from kshot.datasets.folder import image_transform
from kshot.datasets.pool import Pool
from kshot.datasets.registry import register
from kshot.datasets.splits import SPLITS
from kshot.datasets.transform import ImageTransform, Transform
from kshot.errors import ConfigError

VERSION = 1
"""Raised when the same options give other examples."""


@register(
    "glyphs",
    description=(
        "Letters of Latin, Greek (train), Cyrillic, Lao (val), Armenian and Georgian (test) script, drawn from the "
        "fonts that matplotlib installs and distorted like handwriting; letters that look alike are one class"
    ),
    licence="fonts: Bitstream Vera and Arev (DejaVu), SIL OFL 1.1 (STIX), AMS (Computer Modern); the examples are free",
    source="the fonts of the installed matplotlib (mpl-data/fonts/ttf)",
)
def load_glyphs(
    *,
    seed: int = 0,
    size: int = 28,
    examples: int = 20,
    fonts: int = 6,
    transform: Transform | Mapping[str, Any] | None = None,
) -> Dataset:
    """Letters as a few-shot dataset.

    Args:
        seed: of the distortions. Classes and splits do not depend on it.
        size: the side of the pictures in pixels, at least 8.
        examples: examples of each class.
        fonts: the number of fonts that a letter must stand in.
        transform: how a learner that exists already reads images; they are drawn in `size` and read by it.

    Raises:
        ConfigError: an option out of its range.
        DatasetNotFoundError: matplotlib's fonts are not there, or no letter stands in so many of them.
    """
    for name, value, least in (("size", size, 8), ("examples", examples, 1), ("fonts", fonts, 1)):
        if value < least:
            raise ConfigError(f"expected glyphs' {name} to be at least {least}, got {value}")
    paths = glyphs_fonts.text_fonts()
    key = cache.cache_key("glyphs", VERSION, seed, size, examples, fonts, _fingerprint(paths))
    stored = cache.load(key)
    if stored is None:
        x, description = _make(paths, seed, size, examples, fonts)
        cache.save(key, {"x": x}, description)
    else:
        x, description = stored[0]["x"], stored[1]
    members, split = description["members"], description["split"]
    as_drawn = ImageTransform(size=(size, size), channels=1, polarity="auto", fit="pad")
    given = image_transform(transform, "glyphs")
    if given is not None and given != as_drawn:
        # Ink is bright on dark here, and dark on bright where a transform decides about it, as in a scan of paper.
        drawn = x.numpy() if given.polarity == "as_is" else 255 - x.numpy()
        x = torch.from_numpy(np.stack([given.read_array(picture[0], "a glyph") for picture in drawn]))
    pool = Pool.from_sorted(x, [examples] * len(members), [_name(letters) for letters in members])
    pools = {name: pool.select([s == name for s in split]) for name in SPLITS}
    scripts = {
        name: dict(Counter(glyphs_fonts.script(m[0]).lower() for m, s in zip(members, split, strict=True) if s == name))
        for name in SPLITS
    }
    return Dataset(
        name="glyphs",
        train=pools["train"],
        val=pools["val"],
        test=pools["test"],
        transform=given or as_drawn,
        info={
            "fonts": [path.stem for path in paths],
            "letters": sum(len(letters) for letters in members),
            "scripts": scripts,
            "looks": {_name(letters): letters for letters in members if len(letters) > 1},
        },
    )


def _make(paths: Sequence[Path], seed: int, size: int, examples: int, fonts: int) -> tuple[Tensor, dict[str, Any]]:
    """The examples, uint8 `[classes * examples, 1, size, size]`, and the classes that they are of."""
    drawings = glyphs_fonts.draw_letters(paths, fonts)
    looks = glyphs_looks.group(drawings, fonts)
    chosen, keys = [], []
    for letters, pictures in zip(looks.members, looks.pictures, strict=True):
        root = randomness.bits(seed, randomness.stream("glyphs"), ord(letters[0]))
        chosen.append(_pick(drawings.ink, pictures, examples, root))
        keys.append(randomness.bits(root, np.arange(examples)))
    ink = torch.from_numpy(drawings.ink[np.concatenate(chosen)])
    x = glyphs_warp.warp(ink, np.concatenate(keys), size)
    return x, {"members": list(looks.members), "split": list(looks.split)}


def _pick(
    ink: NDArray[np.uint8], pictures: NDArray[np.int64], examples: int, key: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """The picture behind each example: every distinct one as often as any other, to within one."""
    distinct = np.array(list({ink[i].tobytes(): i for i in pictures.tolist()}.values()), dtype=np.int64)
    rounds = -(-examples // len(distinct))
    order = randomness.permutation(len(distinct), key, randomness.stream("glyphs/font"), np.arange(rounds))
    return distinct[order.reshape(-1)[:examples]]


def _name(letters: str) -> str:
    """What a class is called: its first letter and that letter's script."""
    return f"{glyphs_fonts.script(letters[0]).lower()}/{letters[0]}"


def _fingerprint(paths: Sequence[Path]) -> list[Any]:
    """What the drawings depend on besides the options."""
    import PIL
    from PIL import features

    return [PIL.__version__, features.version("freetype2"), [[path.name, path.stat().st_size] for path in paths]]
