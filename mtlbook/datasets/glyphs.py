"""Printed alphabets in handwriting-like disorder: a stand-in for Omniglot that needs no download.

Every alphabet that matplotlib's bundled fonts really cover is a task. As in Omniglot each character
comes from 20 drawers; a drawer of an alphabet is a style, that is a font face, a weight of stroke
and a smooth distortion, which all characters of that drawer share up to a small tremor.
"""

from __future__ import annotations

import math
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from mtlbook.datasets.derived import derived
from mtlbook.datasets.registry import one_of, require
from mtlbook.tasks import Task

#: In these fonts only the codes of letters mean what they mean elsewhere.
LETTERS_ONLY = ("cmr10", "cmss10", "cmtt10", "cmti10", "cmb10")
#: Faces in order of preference: the first one that covers the most of an alphabet defines it.
FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Oblique", "-Bold", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Italic", "-Bold", "-BoldItalic")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Oblique", "-Bold", "-BoldOblique")),
    *(f"STIXGeneral{style}" for style in ("", "Italic", "Bol", "BolIta")),
    *LETTERS_ONLY,
)
BEND = 0.05  # size of the elastic part of a style, in half images
OVERSAMPLING = 2  # drawn at twice the size, then averaged, so that edges stay smooth
INK = 0.8  # the largest extent of an undistorted alphabet, as a part of the image
MOST = 55  # characters of the largest alphabet, as in Omniglot
ALIKE = 0.25  # two characters are the same if no patch of 5 x 5 of 56 x 56 pixels differs by more


def _named(first: int, last: int, *words: str) -> str:
    """The characters of a range whose Unicode name has all the words."""
    names = ((chr(code), unicodedata.name(chr(code), "")) for code in range(first, last + 1))
    return "".join(char for char, name in names if all(word in name for word in words))


def _letters(base: int, older: Mapping[int, str] = MappingProxyType({})) -> str:
    """26 mathematical letters from a code on; some of them had codes elsewhere before."""
    return "".join(older.get(letter, chr(base + letter)) for letter in range(26))


def _span(*bounds: int) -> str:
    """Characters of the ranges ``first, last, first, last, ...``."""
    pairs = zip(bounds[::2], bounds[1::2], strict=True)
    return "".join(chr(code) for first, last in pairs for code in range(first, last + 1))


#: name -> characters; those that the fonts lack, or draw like an earlier one, are left out.
ALPHABETS = {
    "Latin capitals": _span(0x41, 0x5A),
    "Latin small": _span(0x61, 0x7A),
    "Digits and punctuation": _span(0x21, 0x40, 0x5B, 0x60, 0x7B, 0x7E),
    "Greek capitals": _span(0x391, 0x3A9),
    "Greek small": _span(0x3B1, 0x3C9),
    "Cyrillic capitals": _span(0x410, 0x42F),
    "Cyrillic small": _span(0x430, 0x44F),
    "Cyrillic historic": _named(0x460, 0x481, "CAPITAL") + _named(0xA640, 0xA697, "CAPITAL"),
    "Cyrillic of Asia": _named(0x48A, 0x52F, "CAPITAL"),
    "Cyrillic of the Balkans": _span(0x402, 0x40F, 0x452, 0x45F),
    "Armenian capitals": _span(0x531, 0x556),
    "Armenian small": _span(0x561, 0x586),
    "Georgian Mkhedruli": _span(0x10D0, 0x10FA),
    "Georgian Asomtavruli": _span(0x10A0, 0x10C5),
    "Georgian Nuskhuri": _span(0x2D00, 0x2D25),
    "Hebrew": _span(0x5D0, 0x5EA),
    "Arabic isolated": _named(0xFE80, 0xFEF4, "LETTER", "ISOLATED"),
    "Arabic initial": _named(0xFE80, 0xFEF4, "LETTER", "INITIAL"),
    "Arabic final": _named(0xFE80, 0xFEF4, "LETTER", "FINAL"),
    "Arabic of Asia": _span(0x679, 0x6D3),
    "N'Ko": _span(0x7CA, 0x7EA),
    "Tifinagh": _span(0x2D30, 0x2D65),
    "Lisu": _span(0xA4D0, 0xA4F7),
    "Ogham": _span(0x1681, 0x169A),
    "Lao": _span(0xE81, 0xEAE),
    "Old Italic": _span(0x10300, 0x10323),
    "Canadian syllabics P and T": _span(0x1401, 0x1450),
    "Canadian syllabics K and C": _span(0x146B, 0x14A0),
    "Canadian syllabics M and N": _span(0x14A3, 0x14D0),
    "Canadian syllabics S and Y": _span(0x14D3, 0x1540),
    "Canadian syllabics of the west": _span(0x1542, 0x15FF),
    "Braille": "⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵",
    "Latin phonetic": _span(0x250, 0x2AF),
    "Latin small capitals": _span(0x1D00, 0x1D2B),
    "Latin of Africa": _named(0x180, 0x1BF, "CAPITAL") + _named(0x2C60, 0x2C7F, "CAPITAL"),
    "Fraktur capitals": _letters(0x1D504, {2: "ℭ", 7: "ℌ", 8: "ℑ", 17: "ℜ", 25: "ℨ"}),
    "Fraktur small": _letters(0x1D51E),
    "Script capitals": _letters(0x1D4D0),
    "Script small": _letters(0x1D4EA),
    "Double-struck small": _letters(0x1D552),
    "Arrows": _span(0x2190, 0x21B5),
    "Arrows, double and other": _span(0x21B6, 0x21FF),
    "Mathematical signs": _span(0x2200, 0x223B),
    "Operators": _span(0x228C, 0x22FF),
    "Box drawing": _span(0x2550, 0x256C),
    "Geometric shapes": _span(0x25A0, 0x25FF),
    "APL": _span(0x2336, 0x237A),
    "Signs of the sky and of chess": _span(0x2600, 0x2613, 0x263D, 0x2667),
    "Dingbats": _span(0x2701, 0x2727),
    "Currency signs": _span(0x20A0, 0x20BF),
}


def load(
    *,
    alphabets: Sequence[str] | None = None,
    drawers: int = 20,
    size: int = 28,
    seed: int = 0,
) -> list[Task]:
    """Render the alphabets; inputs of shape ``(characters * drawers, 1, size, size)``, ink = 1.

    Parameters
    ----------
    alphabets : sequence of str, optional
        Keys of `ALPHABETS` to take, in this order; default all. The images of an alphabet do not
        depend on which others are taken.
    drawers : int
        Styles a character. The first ones stay the same when there are more.
    size : int
        Side of the images in pixels, at least 8.
    seed : int
        Seed of the styles.

    Returns
    -------
    list of Task
        Images in the order of character, then drawer; ``groups`` holds the drawer, from 0.
    """
    for argument, value, least in (("drawers", drawers, 1), ("size", size, 8), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{argument}: expected an int of at least {least}, got {value}")
    known = list(ALPHABETS)
    chosen = known if alphabets is None else [one_of("alphabets", a, known) for a in alphabets]
    return [_task(name, drawers, size, seed) for name in chosen]


@lru_cache(maxsize=4 * len(ALPHABETS))
def _task(name: str, drawers: int, size: int, seed: int) -> Task:
    """As `render` draws it, from the data cache where it is there."""

    def make() -> dict[str, np.ndarray]:
        task = render(name, drawers, size, seed)
        return {"inputs": task.inputs.numpy(), "targets": task.targets.numpy()}

    given = {"alphabet": name, "drawers": drawers, "size": size, "seed": seed}
    made = derived("glyphs", make, **shaped_by(), **given)
    targets = torch.from_numpy(made["targets"])
    classes = int(targets[-1]) + 1
    groups = torch.arange(drawers).repeat(classes)
    return Task(name, torch.from_numpy(made["inputs"]), targets, classes=classes, groups=groups)


def shaped_by() -> dict[str, Any]:
    """What the images depend on, as :func:`mtlbook.datasets.derived.derived` asks for it."""
    from PIL import features

    return {
        "files": [__file__, *map(_file, FACES)],
        "packages": ["matplotlib", "pillow"],
        "freetype": features.version("freetype2"),
    }


def render(name: str, drawers: int, size: int, seed: int) -> Task:
    """Draw an alphabet; parameters as in `load`."""
    characters, faces = coverage(name)
    images = [
        _draw(characters, faces, size, np.random.default_rng([seed, zlib.crc32(name.encode()), d]))
        for d in range(drawers)
    ]
    return Task(
        name=name,
        inputs=torch.stack(images, dim=1).reshape(-1, 1, size, size),  # (C, drawers) -> rows
        targets=torch.arange(len(characters)).repeat_interleave(drawers),
        loss="cross_entropy",
        classes=len(characters),
        groups=torch.arange(drawers).repeat(len(characters)),
    )


def _draw(characters: str, faces: Sequence[str], size: int, rng: np.random.Generator) -> Tensor:
    """One drawer's version of each character, ``(C, size, size)``."""
    face = faces[rng.integers(len(faces))]
    side = OVERSAMPLING * size
    ink = _print(characters, face, side, stroke=side / 56 * rng.uniform(0, 1.2))  # (C, side, side)
    count = len(characters)

    def normal(scale: float, tremor: float) -> Tensor:  # (C,): the style, and each image's own part
        values = scale * rng.standard_normal() + tremor * rng.standard_normal(count)
        return torch.from_numpy(values).float().clamp(-2.5 * scale, 2.5 * scale)

    angle, shear = normal(math.radians(5), math.radians(2)), normal(0.12, 0.04)
    width, height = normal(0.09, 0.03).exp(), normal(0.07, 0.03).exp()
    right, down = normal(0.04, 0.03), normal(0.04, 0.03)
    cos, sin = angle.cos() / width, angle.sin() / height
    affine = [cos, sin + shear * cos, -sin, cos - shear * sin]
    affine = torch.stack(affine, dim=1).view(count, 2, 2)  # from (x, y) to the place to look up
    style, tremor = rng.standard_normal((1, 2, 16)), rng.standard_normal((count, 2, 16))
    elastic = torch.from_numpy(BEND * style + BEND / 2 * tremor).float()
    elastic /= 1 + torch.arange(4).repeat(4) + torch.arange(4).repeat_interleave(4)
    elastic[:, :, 0] = torch.stack([right, down], dim=1)
    grid = torch.cat([affine, elastic], dim=2) @ _fields(side)  # (C, 2, side * side)
    grid = grid.view(count, 2, side, side).permute(0, 2, 3, 1)
    warped = grid_sample(ink.unsqueeze(1), grid, align_corners=False)
    return avg_pool2d(warped, OVERSAMPLING).squeeze(1).clamp_(0, 1)


@cache
def _fields(side: int) -> Tensor:
    """What a distortion is a sum of, ``(18, side * side)``: x, y, and the 16 lowest cosines."""
    at = (torch.arange(side) + 0.5) * 2 / side - 1  # centres of the pixels in [-1, 1]
    waves = torch.cos(math.pi / 2 * (at + 1) * torch.arange(4)[:, None])  # (4, side)
    products = torch.einsum("iy,jx->ijyx", waves, waves).reshape(16, -1)  # the first is constant
    return torch.cat([at.repeat(side)[None], at.repeat_interleave(side)[None], products])


@cache
def coverage(name: str) -> tuple[str, tuple[str, ...]]:
    """The characters of an alphabet that can be drawn and told apart, and the faces that do so."""
    wanted = ALPHABETS[name]
    letters = all(char.isascii() and char.isalpha() for char in wanted)
    faces = [face for face in FACES if letters or face not in LETTERS_ONLY]
    home = max(faces, key=lambda face: sum(char in _charmap(face) for char in wanted))
    characters = "".join(char for char in wanted if char in _charmap(home))
    characters = _distinct(characters, home)[:MOST]
    covering = [face for face in faces if _charmap(face).issuperset(characters)]
    return characters, tuple(face for face in covering if _distinct(characters, face) == characters)


def _distinct(characters: str, face: str) -> str:
    """Without those that are blank in a face, or look like an earlier one in it."""
    ink = _print(characters, face, 56, stroke=0)  # (C, 56, 56)
    patches = avg_pool2d(ink, 5, 2).flatten(1)  # (C, 26 * 26)
    difference = torch.cdist(patches, patches, p=torch.inf)
    kept: list[int] = []
    for index in range(len(characters)):
        if patches[index].max() > ALIKE and (difference[index, kept] > ALIKE).all():
            kept.append(index)
    return "".join(characters[index] for index in kept)


def _print(characters: str, face: str, side: int, *, stroke: float) -> Tensor:
    """The characters in one face, ``(C, side, side)`` in [0, 1], on one baseline and in one size.

    Each is centred by its advance and the alphabet as a whole by its extent, so that signs which
    differ in their place only (Braille, dashes) stay different.
    """
    from PIL import Image, ImageDraw

    scale, middle = _fit(characters, face)
    font = _font(face, scale * side)
    sheet = Image.new("L", (side, side * len(characters)))
    draw = ImageDraw.Draw(sheet)
    baseline = side * (0.5 - middle * scale)
    for index, char in enumerate(characters):
        origin = ((side - font.getlength(char)) / 2, side * index + baseline)
        draw.text(origin, char, fill=255, font=font, anchor="ls", stroke_width=stroke)
    return torch.from_numpy(np.array(sheet)).view(-1, side, side).float() / 255


@cache
def _fit(characters: str, face: str) -> tuple[float, float]:
    """Size of the em as a part of the image, and height of the middle over the baseline in em."""
    em = 200
    font = _font(face, em)
    boxes = np.array([font.getbbox(char, anchor="ls") for char in characters]) / em
    left, top, right, bottom = boxes.T
    advance = np.array([font.getlength(char) for char in characters]) / em
    width = 2 * np.max([advance / 2 - left, right - advance / 2])  # about the centre of the advance
    height = bottom.max() - top.min()
    return INK / max(width, height), (bottom.max() + top.min()) / 2


@lru_cache(maxsize=256)
def _font(face: str, size: float):
    """A face at a size in pixels, without any shaping: a character is a glyph."""
    from PIL import ImageFont

    return ImageFont.truetype(_file(face), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def _charmap(face: str) -> frozenset[str]:
    """The characters that a face has a glyph for (glyph 0 is the box for missing ones)."""
    charmap = require("matplotlib.ft2font", "reproduce").FT2Font(_file(face)).get_charmap()
    return frozenset(chr(code) for code, glyph in charmap.items() if glyph)


def _file(face: str) -> str:
    folder = Path(require("matplotlib", "reproduce").get_data_path()) / "fonts" / "ttf"
    return str(folder / f"{face}.ttf")
