"""The letters that stand in matplotlib's text fonts, and their outlines as pictures of one size."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kshot.errors import DatasetNotFoundError

BOX = 40
"""The longer side of every drawn letter, in pixels."""

CANVAS = 56
"""The side of the square that a drawn letter stands in the middle of: twice the side of what a learner sees."""

SCRIPTS = {
    "LATIN": "train",
    "GREEK": "train",
    "CYRILLIC": "val",
    "LAO": "val",
    "ARMENIAN": "test",
    "GEORGIAN": "test",
}
"""The split that each script's classes belong to. Others have too few letters in these fonts."""

RANK = {"train": 0, "val": 1, "test": 2}

# DejaVu and STIX General are text fonts with a truthful character map. Of Computer Modern (TeX) only the text faces
# are, and only among the ASCII letters: above, their maps name characters that the glyphs are not. Left out are the
# last resort (one placeholder for each block), symbols and pieces of large delimiters (cmex, cmsy, STIXSiz*), glyphs
# without a code point (STIXNonUni*) and the Display faces, which hold no letters.
_FULL = ("DejaVuSans", "DejaVuSerif", "STIXGeneral")
_ASCII = ("cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10")

_EM = (
    72  # of the font that is drawn: a letter's longer side is then 32 to 110 pixels, so shrinking to BOX is mostly mild
)

_VARIANT = ("<font>", "<super>", "<sub>")  # compatibility characters: another letter in another weight or place


@dataclass(frozen=True)
class Drawings:
    """Pictures of letters, sorted by letter and then by font.

    Attributes:
        letters: the characters, sorted by code point.
        fonts: the names of the font files.
        letter: int64 `[n]`, each picture's letter.
        font: int64 `[n]`, each picture's font.
        ink: uint8 `[n, CANVAS, CANVAS]`, bright on dark: the letter's box, its longer side BOX pixels, in the middle.
    """

    letters: tuple[str, ...]
    fonts: tuple[str, ...]
    letter: NDArray[np.int64]
    font: NDArray[np.int64]
    ink: NDArray[np.uint8]


def text_fonts(folder: Path | None = None) -> list[Path]:
    """The text fonts that matplotlib installs, sorted by name (22 of them in matplotlib 3.11).

    Args:
        folder: where to look; by default in the installed matplotlib.

    Raises:
        DatasetNotFoundError: there are none.
    """
    if folder is None:
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [path for path in sorted(folder.glob("*.ttf")) if is_text_font(path)]
    if not fonts:
        raise DatasetNotFoundError(
            f"expected matplotlib's fonts (DejaVuSans.ttf and others) in {folder}, got none: the dataset 'glyphs' is "
            "drawn from them. Reinstall matplotlib with pip; some distributions strip its fonts"
        )
    return fonts


def is_text_font(path: Path) -> bool:
    """Whether a font file of matplotlib is one to take letters from."""
    return path.stem in _ASCII or (path.stem.startswith(_FULL) and "Display" not in path.stem)


def script(letter: str) -> str:
    """The script of a letter: the first word of its Unicode name (the standard library holds no script property).

    >>> script("A"), script("Ж")
    ('LATIN', 'CYRILLIC')
    """
    return unicodedata.name(letter, "").partition(" ")[0]


def is_letter(character: str) -> bool:
    """Whether a character is a letter of a known script in its own right.

    Upper case, lower case, title case and caseless letters. No digits (they are what the dataset `digits` tests on), no
    modifier letters and no characters that Unicode calls a font variant, superscript or subscript of another one (the
    mathematical alphabets): these are a letter's look in another font. No second code point of the same letter either
    (the Kelvin sign).
    """
    return (
        unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo")
        and script(character) in SCRIPTS
        and not unicodedata.decomposition(character).startswith(_VARIANT)
        and unicodedata.normalize("NFC", character) == character
    )


def draw_letters(paths: Sequence[Path], at_least: int = 6) -> Drawings:
    """Draws every letter that stands in enough fonts.

    Args:
        paths: font files.
        at_least: the number of fonts that a letter must stand in.

    Returns:
        About 21,500 pictures of 1,700 letters for matplotlib's fonts.

    Raises:
        DatasetNotFoundError: no letter stands in so many fonts.
    """
    maps = [_characters(path) for path in paths]
    counts: dict[str, int] = {}
    for characters in maps:
        for character in characters:
            counts[character] = counts.get(character, 0) + 1
    letters = tuple(sorted(c for c, n in counts.items() if n >= at_least))
    if not letters:
        raise DatasetNotFoundError(
            f"expected letters that stand in {at_least} fonts or more, got {len(paths)} fonts and no such letter. "
            "Ask for fewer fonts, or reinstall matplotlib, whose fonts they are"
        )
    letter, font, ink = [], [], []
    for f, path in enumerate(paths):
        wanted = [i for i, character in enumerate(letters) if character in maps[f]]
        drawn, pictures = _draw(path, [letters[i] for i in wanted])
        letter.append(np.array(wanted, dtype=np.int64)[drawn])
        font.append(np.full(int(drawn.sum()), f, dtype=np.int64))
        ink.append(pictures)
    all_letters, all_fonts = np.concatenate(letter), np.concatenate(font)
    order = np.lexsort((all_fonts, all_letters))
    return Drawings(
        letters=letters,
        fonts=tuple(path.stem for path in paths),
        letter=all_letters[order],
        font=all_fonts[order],
        ink=np.concatenate(ink)[order],
    )


def _characters(path: Path) -> set[str]:
    """The letters that a font claims to have. Whether they have ink shows when they are drawn."""
    from matplotlib.ft2font import FT2Font

    limit = 0x80 if path.stem in _ASCII else 0x110000
    glyphs = FT2Font(str(path)).get_charmap()  # glyph 0 is .notdef
    return {chr(code) for code, glyph in glyphs.items() if code < limit and int(glyph) and is_letter(chr(code))}


def _draw(path: Path, letters: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Which letters have ink of their own, and their pictures `[n, CANVAS, CANVAS]`.

    A font may map a code point to a blank glyph, or to a copy of the box that it shows for characters it lacks.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(path), _EM, layout_engine=ImageFont.Layout.BASIC)  # Raqm is not in every Pillow
    sheet = Image.new("L", (4 * _EM, 3 * _EM))
    pen = ImageDraw.Draw(sheet)

    def write(letter: str) -> tuple[int, int, int, int] | None:
        """Draws a letter on the empty sheet; the box of its ink."""
        sheet.paste(0, (0, 0, *sheet.size))
        pen.text((_EM, _EM), letter, fill=255, font=font)
        return sheet.getbbox()

    empty = write("\U0010fffe")
    missing = sheet.crop(empty).tobytes() if empty else b""
    drawn = np.zeros(len(letters), dtype=np.bool_)
    pictures = np.zeros((len(letters), CANVAS, CANVAS), dtype=np.uint8)
    for i, letter in enumerate(letters):
        box = write(letter)
        if box is None or (box == empty and sheet.crop(box).tobytes() == missing):
            continue
        width, height = box[2] - box[0], box[3] - box[1]
        shrink = BOX / max(width, height)
        width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
        top, left = (CANVAS - height) // 2, (CANVAS - width) // 2
        small = sheet.resize((width, height), Image.Resampling.BILINEAR, box=box)
        pictures[i, top : top + height, left : left + width] = np.asarray(small)
        drawn[i] = True
    return drawn, pictures[drawn]
