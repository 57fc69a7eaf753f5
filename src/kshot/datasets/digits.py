"""`digits`: scikit-learn's handwritten digits, real pen strokes that come with the package (Alpaydin, Kaynak 1998)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kshot.datasets.dataset import Dataset
from kshot.datasets.folder import image_transform
from kshot.datasets.pool import Pool
from kshot.datasets.registry import register
from kshot.datasets.splits import shuffled
from kshot.datasets.transform import ImageTransform, Transform
from kshot.errors import ConfigError


@register(
    "digits",
    description="1,797 handwritten digits, 8 x 8, in scikit-learn; all ten classes are for evaluation",
    licence="CC BY 4.0",
    source="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    citation="Alpaydin, Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository (1998)",
)
def load(
    *,
    split: str = "all",
    size: int = 28,
    transform: Transform | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Dataset:
    """Scikit-learn's digits, enlarged; ink is bright on dark. Needs no files.

    Args:
        split: "all": all ten digits in `test`, and nothing to train on: they show how a learner that was trained on
            other characters does on real handwriting; "thirds": 4/3/3 digits, dealt out by `seed`.
        size: height and width in pixels.
        transform: in place of `size`: how a learner that exists already reads images.
        seed: which digits go where.
    """
    if split not in ("all", "thirds"):
        raise ConfigError(f"expected split to be 'all' or 'thirds', got {split!r}")
    from sklearn.datasets import load_digits

    given = image_transform(transform, "digits")
    reading = given or ImageTransform((size, size), resample="bicubic")
    bunch: Any = load_digits()
    # 0..16 to the full range, dark on bright, as a scan of paper would be: a transform's polarity then holds for them.
    ink = (np.asarray(bunch.images) * (255 / 16) + 0.5).astype(np.uint8)
    labels = np.asarray(bunch.target)
    order = np.argsort(labels, kind="stable")
    bright = given is None or given.polarity == "as_is"
    drawn = ink[order] if bright else 255 - ink[order]
    x = np.stack([reading.read_array(image, "a digit") for image in drawn])
    names = [str(digit) for digit in range(10)]
    pool = Pool.from_sorted(torch.from_numpy(x), torch.from_numpy(np.bincount(labels, minlength=10)), names)
    if split == "all":
        chosen: tuple[list[int], list[int], list[int]] = ([], [], list(range(10)))
    else:
        places = shuffled(names, seed)
        chosen = (sorted(places[:4]), sorted(places[4:7]), sorted(places[7:]))
    train, val, test = (pool.select(classes) for classes in chosen)
    return Dataset("digits", train, val, test, reading)
