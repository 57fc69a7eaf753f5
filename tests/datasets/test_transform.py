from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import png
from PIL import Image

from kshot.datasets import Column, IdentityTransform, ImageTransform, TableTransform, transform_from_dict
from kshot.datasets import pixels as pixels_module
from kshot.errors import ConfigError, DataError, ImageError

FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def test_a_path_bytes_an_image_and_an_array_read_alike(tmp_path: Path):
    raw = png(size=(9, 7))
    (tmp_path / "a.png").write_bytes(raw)
    image = Image.open(io.BytesIO(raw))
    transform = ImageTransform((5, 6))
    expected = transform.read(raw)
    assert expected.shape == (1, 5, 6)
    assert expected.dtype == torch.uint8
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), image, np.asarray(image), np.asarray(image)[:, :, None]):
        assert torch.equal(transform.read(same), expected)
    # Within one grey level: 255 levels are no exact floats.
    close = transform.read(np.asarray(image) / 255.0)
    assert (close.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("format", FORMATS)
def test_formats(format: str):
    image = Image.new("RGB", (8, 8), (200, 40, 40))
    x = ImageTransform((4, 4), 3).read(encoded(image, format))
    assert x.shape == (3, 4, 4)
    assert (x[0].int() - 200).abs().max() < 10  # JPEG is lossy


def test_grey_from_colour_and_colour_from_grey():
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert ImageTransform((4, 4), 1).read(red).unique().tolist() == [76]  # ITU-R 601 luma
    assert ImageTransform((4, 4), 3).read(Image.new("L", (4, 4), 9)).unique().tolist() == [9]


def test_transparency_lies_over_white():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert ImageTransform((4, 4)).read(encoded(clear)).unique().tolist() == [255]
    palette = Image.new("P", (4, 4), 0)
    assert ImageTransform((4, 4)).read(encoded(palette, transparency=0)).unique().tolist() == [255]


def test_one_bit_and_sixteen_bit_images_fill_the_range():
    assert ImageTransform((4, 4)).read(Image.new("1", (8, 8), 1)).unique().tolist() == [255]
    deep = Image.fromarray(np.full((4, 4), 32896, dtype=np.uint16))
    assert ImageTransform((4, 4)).read(encoded(deep)).unique().tolist() == [128]


def test_the_orientation_of_the_camera_is_applied():
    image = Image.new("L", (6, 4))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    x = ImageTransform((6, 4)).read(encoded(image, exif=exif))
    assert x[0].argmax() == 3
    assert x[0, 0, 3] == 255


@given(border=st.integers(0, 255), ink=st.integers(0, 255))
def test_auto_polarity_makes_the_border_dark(border: int, ink: int):
    array = np.full((8, 8), border, dtype=np.uint8)
    array[3:5, 3:5] = ink
    x = ImageTransform((8, 8), polarity="auto").read(array)[0]
    assert x[0, 0] == (border if border <= 127 else 255 - border)
    assert x[3, 3] == (ink if border <= 127 else 255 - ink)
    assert torch.equal(ImageTransform((8, 8), polarity="invert").read(array)[0], torch.from_numpy(255 - array))


def test_aspect_ratios():
    array = np.full((4, 8), 50, dtype=np.uint8)
    array[:, 3:5] = 200
    size = (4, 4)
    padded = ImageTransform((8, 8), fit="pad").read(array)[0]
    assert padded[0].unique().tolist() == [50]
    assert torch.equal(padded[2:6], torch.from_numpy(array))
    cropped = ImageTransform(size, fit="crop").read(array)[0]
    assert torch.equal(cropped, torch.from_numpy(array[:, 2:6]))
    assert ImageTransform(size, fit="stretch").read(array).shape == (1, 4, 4)


@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from([1, 3]),
    mode=st.sampled_from(["L", "RGB", "RGBA"]),
    fit=st.sampled_from(["stretch", "pad", "crop"]),
    polarity=st.sampled_from(["as_is", "invert", "auto"]),
)
def test_any_image_becomes_the_wanted_shape(size, source, channels, mode, fit, polarity):
    transform = ImageTransform(size, channels, fit=fit, polarity=polarity)
    x = transform.read(png(size=source, mode=mode))
    assert x.shape == (channels, *size)
    assert x.is_contiguous()
    assert transform_from_dict(json.loads(json.dumps(transform.to_dict()))) == transform


def test_normalise():
    transform = ImageTransform((1, 1), 3, mean=(0.5, 0.5, 0.0), std=(0.5, 1.0, 1.0))
    x = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 1, 3, 1, 1)
    assert torch.allclose(transform.normalise(x).view(-1), torch.tensor([1.0, -0.5, 0.2]))
    assert transform.normalise(x).dtype == torch.float32
    assert ImageTransform().normalise(torch.tensor([255], dtype=torch.uint8)).item() == 1.0


def test_normalise_leaves_its_input_alone():
    x = torch.full((1, 1, 1), 51.0)
    ImageTransform(mean=(0.5,), std=(0.5,)).normalise(x)
    assert x.item() == 51.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.png is empty: expected an image, got a file of 0 bytes"),
        (b"hello, this is a text", "bad.png is not an image in any format that Pillow reads"),
        (png(size=(64, 64))[:900], "bad.png is damaged: expected a whole image"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        ImageTransform().read(tmp_path / "bad.png")
    with pytest.raises(ImageError, match=message):
        ImageTransform().read(content, name="bad.png")


@given(cut=st.integers(1, 200), format=st.sampled_from(FORMATS))
def test_a_cut_off_file_never_raises_anything_else(cut: int, format: str):
    raw = encoded(Image.open(io.BytesIO(png(size=(32, 32), mode="RGB"))), format)
    try:
        ImageTransform().read(raw[: max(1, len(raw) - cut)], name="cut")
    except ImageError as error:
        assert "cut" in str(error)  # noqa: PT017 - some formats can do without their last bytes


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ImageError, match=r"gone\.png cannot be read: No such file"):
        ImageTransform().read(tmp_path / "gone.png")


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch):
    raw = encoded(Image.new("1", (15_000, 15_000)))
    with pytest.raises(ImageError, match=r"bomb\.png has too many pixels: expected at most 89,478,485"):
        ImageTransform().read(raw, name="bomb.png")
    monkeypatch.setattr(pixels_module, "PIXEL_LIMIT", 100)
    with pytest.raises(ImageError, match=r"expected at most 100, got 11 x 10\. Shrink it, or leave it out"):
        ImageTransform().read(png(size=(11, 10)))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), dtype=np.int64),
        np.zeros((2, 2, 5), dtype=np.uint8),
        np.full((2, 2), 2.0),
        np.full((2, 2), np.nan),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: np.ndarray):
    with pytest.raises(ImageError, match="expected"):
        ImageTransform().read(array)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 3)}, "at least 1 x 1 pixels, got 0 x 3"),
        ({"channels": 2}, "channels to be 1 or 3, got 2"),
        ({"resample": "lanczoz"}, "got 'lanczoz'. Did you mean 'lanczos'?"),
        ({"polarity": "dark"}, "expected polarity to be one of as_is, invert, auto"),
        ({"fit": "padded"}, "Did you mean 'pad'?"),
        ({"std": (0.0,)}, "expected std above 0"),
        ({"channels": 3, "mean": (0.1, 0.2)}, "expected 3 values of mean, one a channel, got 2"),
    ],
)
def test_impossible_transforms_are_refused(options: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        ImageTransform(**options)


def test_tables_and_identity_survive_json():
    table = TableTransform((Column("age"), Column("colour", "red")), (1.0, 0.5), (2.0, 1.0), "mean")
    for transform in (table, IdentityTransform()):
        assert transform_from_dict(json.loads(json.dumps(transform.to_dict()))) == transform
    assert table.normalise(torch.tensor([[3.0, 0.5]])).tolist() == [[1.0, 0.0]]
    with pytest.raises(DataError, match="expected 2 features in the last dimension, got 3"):
        table.normalise(torch.zeros(1, 3))
    assert IdentityTransform().normalise(torch.zeros(2, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("wrong", [{"kind": "sound"}, {}, {"kind": "image", "colour": 3}, {"kind": "table"}])
def test_unknown_descriptions_are_refused(wrong: dict[str, object]):
    with pytest.raises(ConfigError, match="expected"):
        transform_from_dict(wrong)
