from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kshot import randomness
from kshot.datasets.augment import PRESETS, Augmentation, as_augmentation
from kshot.errors import ConfigError, DataError

ALL = Augmentation(
    shift=0.2, rotation=30, scale=(0.7, 1.3), shear=0.3, warp=0.1, flip=0.5, brightness=0.2, contrast=(0.5, 1.5),
    zeroed=0.2,
)  # fmt: skip


def keys(n: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return randomness.bits(seed, np.arange(n))


def pictures(n: int, channels: int = 1, size: tuple[int, int] = (12, 9)) -> Tensor:
    return (
        torch.from_numpy(randomness.integers(256, 7, np.arange(n * channels * size[0] * size[1])))
        .to(torch.uint8)
        .view(n, channels, *size)
    )


def square(size: int = 21, at: int = 5, side: int = 3) -> Tensor:
    """One white square on black."""
    image = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    image[..., at : at + side, at : at + side] = 255
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [*PRESETS.values(), ALL], ids=[*PRESETS, "all"])
def test_a_view_has_the_shape_and_type_of_its_image(augment: Augmentation, channels: int) -> None:
    x = pictures(5, channels)
    before = x.clone()
    views = augment(x, keys(5))
    assert (views.shape, views.dtype) == (x.shape, torch.uint8)
    assert torch.equal(x, before)
    assert not torch.equal(views, x)
    assert augment(x[:0], keys(0)).shape == (0, *x.shape[1:])


@given(first=st.integers(0, 30), count=st.integers(1, 10))
def test_a_view_depends_on_its_image_and_key_alone(first: int, count: int) -> None:
    x, key = pictures(40), keys(40)
    whole = ALL(x, key)
    assert torch.equal(ALL(x[first : first + count], key[first : first + count]), whole[first : first + count])
    order = torch.from_numpy(randomness.permutation(40, first))
    assert torch.equal(ALL(x[order], key[order.numpy()]), whole[order])


def test_another_key_is_another_view_and_nothing_global_is_touched() -> None:
    x, state = pictures(1).expand(20, 1, 12, 9), torch.get_rng_state()
    views = ALL(x, keys(20))
    assert len({view.numpy().tobytes() for view in views}) == 20
    assert torch.equal(views, ALL(x, keys(20)))
    assert torch.equal(state, torch.get_rng_state())


def test_no_ranges_change_nothing() -> None:
    x = pictures(3)
    assert torch.equal(Augmentation()(x, keys(3)), x)
    # What is resampled where it stands comes out as it was.
    same = Augmentation(rotation=1e-9, brightness=1e-9)
    assert torch.equal(same(x, keys(3)), x)


def test_shifts_stay_within_their_range() -> None:
    n, shift = 400, 0.2
    views = Augmentation(shift=shift)(square().expand(n, 1, 21, 21), keys(n)).double()
    place = torch.arange(21.0, dtype=torch.float64)
    for dim in (-1, -2):
        mass = views.sum((1, dim))
        moved = (mass * place).sum(-1) / mass.sum(-1) - 6
        assert float(moved.abs().max()) <= shift * 21 + 0.05
        assert float(moved.max()) > 0.8 * shift * 21
        assert float(moved.min()) < -0.8 * shift * 21


def test_a_quarter_turn_turns_by_a_quarter() -> None:
    x = pictures(1, size=(8, 8)).expand(300, 1, 8, 8)
    views = Augmentation(rotation=180)(x, keys(300)).float()
    for turn in range(4):
        # A view of about this angle is about this turned image.
        nearest = (views - torch.rot90(x, turn, (-2, -1)).float()).abs().mean((1, 2, 3)).min()
        assert float(nearest) < 12


@pytest.mark.parametrize(("scale", "larger"), [((0.5, 0.5), False), ((2.0, 2.0), True)])
def test_a_scale_is_a_factor_of_size(scale: tuple[float, float], larger: bool) -> None:
    view = Augmentation(scale=scale)(square(20, 8, 4), keys(1)).double()
    assert float(view.sum() / 255) == pytest.approx(64 if larger else 4, rel=0.05)


def test_flips_exchange_left_and_right_that_often() -> None:
    x = pictures(1).expand(600, 1, 12, 9)
    views = Augmentation(flip=0.3)(x, keys(600))
    flipped = (views == x.flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped, ~(views == x).flatten(1).all(1))
    assert float(flipped.double().mean()) == pytest.approx(0.3, abs=0.06)


def test_zeroed_pixels_are_zero_in_all_channels() -> None:
    x = torch.full((50, 3, 12, 9), 200, dtype=torch.uint8)
    views = Augmentation(zeroed=0.25)(x, keys(50))
    assert set(views.unique().tolist()) == {0, 200}
    assert torch.equal(views[:, :1].expand_as(views), views)
    assert float((views == 0).double().mean()) == pytest.approx(0.25, abs=0.02)
    assert not Augmentation(zeroed=1.0)(x, keys(50)).any()


def test_brightness_and_contrast_move_mean_and_spread() -> None:
    x = (100 + pictures(1).expand(200, 1, 12, 9) // 8).to(torch.uint8)
    lighter = Augmentation(brightness=0.2)(x, keys(200)).double().mean((1, 2, 3)) - x.double().mean((1, 2, 3))
    assert 45 < float(lighter.max()) <= 51.5
    assert -51.5 <= float(lighter.min()) < -45
    spread = Augmentation(contrast=(0.5, 2.0))(x, keys(200)).double().std((1, 2, 3)) / x.double().std((1, 2, 3))
    assert 0.45 < float(spread.min()) < 0.6
    assert 1.8 < float(spread.max()) < 2.1


def test_what_comes_in_from_outside() -> None:
    x = torch.full((30, 1, 8, 8), 90, dtype=torch.uint8)
    assert int(Augmentation(shift=0.5)(x, keys(30)).min()) == 0
    for fill in ("border", "reflection"):
        assert torch.equal(Augmentation(shift=0.5, fill=fill)(x, keys(30)), x)


def test_ranges_by_name_by_mapping_and_back() -> None:
    assert as_augmentation("omniglot") is PRESETS["omniglot"]
    assert as_augmentation(ALL.to_dict()) == ALL
    assert as_augmentation({"scale": [0.5, 1]}) == Augmentation(scale=(0.5, 1.0))
    assert as_augmentation({"preset": "colour", "flip": 0.0}).brightness == PRESETS["colour"].brightness
    for preset in PRESETS.values():
        assert as_augmentation(preset.to_dict()) == preset


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("omniglt", "unknown augmentation 'omniglt'. Did you mean 'omniglot'\\? Or give its ranges"),
        (3, "expected augment to be one of omniglot, colour, or ranges such as {shift: 0.1, zeroed: 0.2}; got 3"),
        ({"shfit": 0.1}, "unknown range 'shfit' of an augmentation. Did you mean 'shift'"),
        ({"shift": 2}, "expected shift of an augmentation to be a number in 0..1, got 2"),
        ({"rotation": 270}, "expected rotation of an augmentation to be a number in 0..180, got 270"),
        ({"zeroed": True}, "expected zeroed of an augmentation to be a number in 0..1, got True"),
        ({"scale": 2}, "expected scale of an augmentation to be .smallest, largest., both above 0, got 2"),
        ({"contrast": [2, 1]}, "expected contrast of an augmentation to be .smallest, largest."),
        ({"fill": "mirror"}, "unknown fill 'mirror' of an augmentation. Known: border, reflection, zeros"),
    ],
)
def test_what_is_no_augmentation_says_so(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_augmentation(value)


def test_only_images_are_augmented() -> None:
    with pytest.raises(DataError, match=r"expected uint8 images \[n, C, H, W\] to augment, got float32 \[3, 7\]"):
        ALL(torch.zeros(3, 7), keys(3))
