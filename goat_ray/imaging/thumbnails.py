"""Small pictures of a case: three planes through the tumour, labels over the image, in radiological convention.

Volumes are crops (z, y, x) in LPS, so the patient's right is on the left of axial and coronal planes.
"""

import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from goat_ray.labels import LabelMap, Mask

Number = TypeVar("Number", int, float)

Picture = NDArray[np.uint8]
"""Rows and columns of palette indices."""

_MOST_GREY_VOXELS = 1_200_000
_WINDOW_PERCENTILES = (1.0, 99.5)

_SIDE, _MARGIN, _STRIP = 200, 14, 18  # pixels: longest side of the brain, room for a letter, a line of text
_CELL = _SIDE + 2 * _MARGIN
_GREYS = 32
_FILL = 0.25
# Okabe and Ito's colours (jfly.uni-koeln.de/color), told apart by their brightness too: 114, 157, 211 and 87 of 255.
_COLOURS = {1: (213, 94, 0), 2: (86, 180, 233), 3: (240, 228, 66), 4: (0, 114, 178)}
_NAMES = {1: "NETC", 2: "SNFH", 3: "ET", 4: "RC"}
_OUTLINE = _GREYS * (len(_COLOURS) + 1)
_WHITE = _OUTLINE + len(_COLOURS)


@dataclass(frozen=True, slots=True)
class _Plane:
    """A plane through a crop: the axis it is perpendicular to, and what lies at its four sides."""

    axis: int
    is_upside_down: bool
    top: str
    bottom: str
    left: str
    right: str


_PLANES = (
    _Plane(0, False, *"APRL"),
    _Plane(1, True, *"SIRL"),
    _Plane(2, True, *"SIAP"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What a picture shows.

    Attributes:
        grey: the image, from `grey_volume`.
        prediction: labels (z, y, x) of the crop.
        reference: labels of the crop, if there are any to compare with.
        spacing_mm: voxel edge lengths of the crop (z, y, x).
    """

    grey: NDArray[np.uint8]
    prediction: LabelMap
    reference: LabelMap | None
    spacing_mm: tuple[float, float, float]


def grey_volume(image: NDArray[np.float32], spacing_mm: tuple[float, float, float]) -> NDArray[np.uint8]:
    """A coarse grey image of a crop (z, y, x), about 1 MB at most; 0 outside the brain.

    Args:
        image: intensities, 0 outside the brain.
        spacing_mm: voxel edge lengths (z, y, x); the finest axes are thinned first.
    """
    coarse = image
    with np.errstate(over="ignore", invalid="ignore"):  # extreme intensities cost the picture, not the case
        for axis, step in enumerate(_steps(image.shape, spacing_mm)):
            coarse = _means(coarse, step, axis)
        inside = coarse != 0
        low, high = np.percentile(coarse[inside], _WINDOW_PERCENTILES) if inside.any() else (0.0, 1.0)
        scaled = np.nan_to_num((coarse - np.float32(low)) * np.float32(254 / max(high - low, 1e-12)))
    grey: NDArray[np.uint8] = np.where(inside, np.clip(scaled, 0, 254) + 1, 0).astype(np.uint8)
    return grey


def _means(volume: NDArray[np.float32], step: int, axis: int) -> NDArray[np.float32]:
    """Means of `step` neighbours along an axis, and of what is left at its end."""
    if step == 1:
        return volume
    # Slices, not `np.add.reduceat`, which takes about ten times as long.
    along = np.moveaxis(volume, axis, 0)
    sums = along[::step].copy(order="K")
    for offset in range(1, step):
        neighbours = along[offset::step]
        sums[: len(neighbours)] += neighbours
    sums[: len(along) // step] /= np.float32(step)
    sums[len(along) // step :] /= np.float32(len(along) % step or step)
    return np.moveaxis(sums, 0, axis)


def _steps(shape: Sequence[int], spacing_mm: Sequence[float]) -> list[int]:
    """Voxels of a crop that make one voxel of its grey volume, along each axis."""
    steps = [1] * len(shape)
    while math.prod(-(-size // step) for size, step in zip(shape, steps, strict=True)) > _MOST_GREY_VOXELS:
        finest = min(range(len(shape)), key=lambda axis: (steps[axis] * spacing_mm[axis], -shape[axis]))
        steps[finest] *= 2
    return steps


def draw(scene: Scene) -> bytes:
    """The PNG of a scene: equal scenes give equal bytes.

    The planes cut the predicted whole tumour where it is largest, or the reference's if nothing was predicted, or
    the middle. With a reference, both are side by side and a plane is a row; else the planes stand in one row.
    """
    maps = {"prediction": scene.prediction}
    if scene.reference is not None:
        maps["reference"] = scene.reference
    indices = _indices(scene)
    rows = [[_cell(scene, labels, plane, indices[plane.axis]) for labels in maps.values()] for plane in _PLANES]
    canvas = np.block(rows if len(maps) > 1 else [[cell for (cell,) in rows]])
    canvas = np.pad(canvas, ((_STRIP, _STRIP), (0, 0)))
    for column, (name, labels) in enumerate(maps.items()):
        _write(canvas, _title(name, labels), column * _CELL + _MARGIN, _STRIP // 2)
    _write_legend(canvas, maps.values())
    return _png(canvas)


def _indices(scene: Scene) -> list[int]:
    """Where each plane cuts, by axis (z, y, x)."""
    for labels in (scene.prediction, scene.reference):
        if labels is not None and labels.any():
            return [int(np.count_nonzero(labels, axis=others).argmax()) for others in ((1, 2), (0, 2), (0, 1))]
    return [size // 2 for size in scene.prediction.shape]


def _cell(scene: Scene, labels: LabelMap, plane: _Plane, index: int) -> Picture:
    """One plane in a black square with room for the letters of its sides."""
    cell = np.zeros((_CELL, _CELL), np.uint8)
    picture = _overlaid(_grey_plane(scene, plane, index), _label_plane(scene, labels, plane, index))
    height, width = picture.shape
    top, left = (_CELL - height) // 2, (_CELL - width) // 2
    cell[top : top + height, left : left + width] = picture[::-1] if plane.is_upside_down else picture
    middle, away = _CELL // 2, _MARGIN // 2
    _write(cell, plane.top, middle, top - away, centred=True)
    _write(cell, plane.bottom, middle, top + height + away, centred=True)
    _write(cell, plane.left, left - away, middle, centred=True)
    _write(cell, plane.right, left + width + away, middle, centred=True)
    return cell


def _size_px(scene: Scene, plane: _Plane) -> tuple[int, int]:
    """Height and width of a plane's picture; all planes of a case are drawn to one scale."""
    sides_mm = [size * mm for size, mm in zip(scene.prediction.shape, scene.spacing_mm, strict=True)]
    height, width = (max(round(side * _SIDE / max(sides_mm)), 1) for side in _without(sides_mm, plane.axis))
    return height, width


def _grey_plane(scene: Scene, plane: _Plane, index: int) -> Picture:
    from PIL import Image  # workers start faster without

    steps = _steps(scene.prediction.shape, scene.spacing_mm)
    cut = np.moveaxis(scene.grey, plane.axis, 0)[index // steps[plane.axis]]
    coarse = Image.fromarray(np.ascontiguousarray(cut))
    sides = zip(_without(scene.prediction.shape, plane.axis), _without(steps, plane.axis), strict=True)
    bottom, right = (size / step for size, step in sides)
    height, width = _size_px(scene, plane)
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC, box=(0, 0, right, bottom)))


def _label_plane(scene: Scene, labels: LabelMap, plane: _Plane, index: int) -> LabelMap:
    nearest = [
        (np.arange(px) * 2 + 1) * size // (2 * px)
        for px, size in zip(_size_px(scene, plane), _without(labels.shape, plane.axis), strict=True)
    ]
    cut: LabelMap = np.moveaxis(labels, plane.axis, 0)[index]
    return cut[np.ix_(*nearest)]


def _overlaid(grey: Picture, labels: LabelMap) -> Picture:
    """Palette indices: grey where there is no label, tinted inside a label, its full colour along its border."""
    shown = np.minimum(labels, len(_COLOURS))
    padded = np.pad(shown, 1)
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = (shown > 0) & np.logical_or.reduce([shown != neighbour for neighbour in neighbours])
    levels = (grey.astype(np.uint16) * _GREYS // 256 + shown.astype(np.uint16) * _GREYS).astype(np.uint8)
    return np.where(border, _OUTLINE - 1 + shown, levels).astype(np.uint8)


def _title(name: str, labels: LabelMap) -> str:
    return name if labels.any() else f"{name}: no tumour"


def _write_legend(canvas: Picture, maps: Iterable[LabelMap]) -> None:
    """The labels' colours and names along the bottom; that of a resection cavity only where there is one."""
    has_cavity = any((labels > 3).any() for labels in maps)
    x, y = _MARGIN, canvas.shape[0] - _STRIP // 2
    for label, name in list(_NAMES.items())[: 4 if has_cavity else 3]:
        canvas[y - 5 : y + 5, x : x + 10] = _OUTLINE - 1 + label
        x = _write(canvas, name, x + 14, y) + 14


def _write(canvas: Picture, text: str, x: int, y: int, *, centred: bool = False) -> int:
    """Write text at mid-height `y` from `x` on, or around it; returns where it ends."""
    mask = _text_mask(text)
    height, width = mask.shape
    left, top = x - width // 2 if centred else x, y - height // 2
    canvas[top : top + height, left : left + width][mask] = _WHITE
    return int(left + width)


@cache
def _text_mask(text: str) -> Mask:
    from PIL import Image, ImageDraw, ImageFont

    # The bitmap font: how outlines are rendered depends on the version of FreeType.
    font = ImageFont.load_default_imagefont()
    _, _, width, height = font.getbbox(text)
    image = Image.new("1", (int(width), int(height)))
    ImageDraw.Draw(image).text((0, 0), text, fill=1, font=font)
    return np.asarray(image)


def _palette() -> bytes:
    greys = np.linspace(0, 255, _GREYS)[:, None].repeat(3, axis=1)
    colours = np.array(list(_COLOURS.values()))
    tinted = [greys * (1 - _FILL) + colour * _FILL for colour in colours]
    return bytes(np.rint(np.vstack([greys, *tinted, colours, np.full((1, 3), 255)])).astype(np.uint8).tobytes())


def _png(picture: Picture) -> bytes:
    # By hand: the zlib inside Pillow compresses differently from processor to processor, the standard library's not.
    height, width = picture.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, with a palette
    rows = np.pad(picture, ((0, 0), (1, 0))).tobytes()  # each begins with its filter: none
    chunks = ((b"IHDR", header), (b"PLTE", _palette()), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _without(values: Sequence[Number], axis: int) -> list[Number]:
    return [value for other, value in enumerate(values) if other != axis]
