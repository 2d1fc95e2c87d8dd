"""Multi-modal brain phantoms with tumours: deterministic in seed, tumour type and site, made in about a second."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from goat_ray.errors import ConfigError
from goat_ray.labels import MODALITIES, Label, LabelMap, Mask

# Every phantom of the project takes its seed from one of these, so none is both trained on and judged by.
TRAINING_SEEDS = range(10_000)
DEMO_SEEDS = range(10_000, 20_000)
BENCHMARK_SEEDS = range(20_000, 30_000)

Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Site:
    """How one hospital's scanner renders the same head."""

    scale: float  # intensity of fully bright tissue
    noise: float  # standard deviation, as a fraction of `scale`
    bias: float  # amplitude of the smooth multiplicative field
    contrast: float  # distance of the tissues from mid-grey; 1 is `_BRIGHTNESS`
    blur_vox: float


SITES: Mapping[str, Site] = {
    "north": Site(scale=620.0, noise=0.02, bias=0.05, contrast=1.0, blur_vox=0.45),
    "south": Site(scale=1500.0, noise=0.035, bias=0.08, contrast=1.1, blur_vox=0.55),
    "island": Site(scale=280.0, noise=0.045, bias=0.06, contrast=0.85, blur_vox=0.7),
}


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """One head: images, reference labels and the affine of their common grid.

    Attributes:
        images: modality → (x, y, z) float32 image, at least 1 inside the brain and 0 outside it.
        labels: (x, y, z) reference labels.
        affine: (4, 4) voxel → RAS mm; storage is LPS with 1 mm voxels, as in BraTS.
    """

    images: dict[str, Field]
    labels: LabelMap
    affine: NDArray[np.float64]


def make_phantom(seed: int, shape: tuple[int, int, int], tumour: str, site: str) -> Phantom:
    """Make the head of patient `seed` as scanned at `site`.

    The same seed has the same anatomy at every site, scaled to fit `shape`: on 240×240×155 the brain is as
    large as the median BraTS-GoAT brain (136×171×140).

    Args:
        seed: Patient; from `TRAINING_SEEDS`, `DEMO_SEEDS` or `BENCHMARK_SEEDS`.
        shape: (x, y, z) voxels of 1 mm, at least 24 each.
        tumour: A key of `TUMOURS`.
        site: A key of `SITES`.

    Raises:
        ConfigError: `shape`, `tumour` or `site` is not one of those.
    """
    if tumour not in TUMOURS or site not in SITES or min(shape) < 24:
        raise ConfigError(
            f"No phantom with tumour {tumour!r} at site {site!r} on grid {shape}: expected a tumour of "
            f"{sorted(TUMOURS)}, a site of {sorted(SITES)} and at least 24 voxels per axis."
        )
    rng = np.random.default_rng(seed)
    head = _place_head(shape, rng)
    tissue = _anatomy(head, rng)
    TUMOURS[tumour](tissue, head, rng)
    scanner = np.random.default_rng([seed, zlib.crc32(site.encode())])
    labels = np.zeros(shape, np.uint8)
    labels[head.box] = _LABEL_OF_TISSUE[tissue]
    images = {modality: np.zeros(shape, np.float32) for modality in MODALITIES}
    for modality, image in images.items():
        image[head.box] = _scan(tissue, _BRIGHTNESS[modality], SITES[site], scanner)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = shape[1] - 1
    return Phantom(images, labels, affine)


_OUTSIDE, _CSF, _GM, _WM, _NETC, _SNFH, _ET = range(7)
_LABEL_OF_TISSUE = np.array([0, 0, 0, 0, Label.NETC, Label.SNFH, Label.ET], np.uint8)
_BRIGHTNESS = {  # outside, CSF, GM, WM, NETC, SNFH, ET
    "t1c": (0.0, 0.20, 0.46, 0.60, 0.28, 0.42, 1.00),
    "t1n": (0.0, 0.20, 0.50, 0.68, 0.30, 0.44, 0.50),
    "t2f": (0.0, 0.16, 0.51, 0.44, 0.42, 0.92, 0.74),
    "t2w": (0.0, 1.00, 0.58, 0.42, 0.86, 0.80, 0.66),
}
_SEMI_AXES_MM = np.array([68.0, 85.5, 70.0], np.float32)  # of the median BraTS-GoAT brain, x, y, z
_LARGEST_FILL = 0.92  # of the grid's tightest axis


@dataclass(frozen=True, slots=True, eq=False)
class _Head:
    """Where the brain lies: its box in the grid, and each of the box's voxels in millimetres of a median brain."""

    box: tuple[slice, slice, slice]
    position_mm: tuple[Field, Field, Field]  # left, posterior, superior of the brain's centre
    radius: Field  # 0 at the centre, 1 at the brain's surface
    mm_per_voxel: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.radius.shape


def _place_head(shape: tuple[int, int, int], rng: np.random.Generator) -> _Head:
    scale = min(1.0, float((_LARGEST_FILL * np.array(shape) / (2 * _SEMI_AXES_MM)).min()))
    proportions = rng.uniform(0.96, 1.03, 3).astype(np.float32)
    half = np.ceil(_SEMI_AXES_MM * proportions * scale).astype(int) + 1
    centre = np.array(shape) // 2
    start, stop = np.maximum(centre - half, 0), np.minimum(centre + half, shape)
    axes = [(np.arange(a, b) - c).astype(np.float32) / scale for a, b, c in zip(start, stop, centre, strict=True)]
    x, y, z = np.meshgrid(*(axis / p for axis, p in zip(axes, proportions, strict=True)), indexing="ij")
    tilt = np.float32(rng.uniform(-0.06, 0.06))
    x, y = x + tilt * y, y - tilt * x
    narrow_front = x / (1 + 0.1 * y / _SEMI_AXES_MM[1])
    unit = [np.abs(v) / a for v, a in zip((narrow_front, y, z), _SEMI_AXES_MM, strict=True)]
    radius = sum(u**2.3 for u in unit) ** (1 / 2.3) + 0.02 * _smooth_noise(rng, x.shape, 5)
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return _Head((box[0], box[1], box[2]), (x, y, z), radius, 1 / scale)


def _anatomy(head: _Head, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Tissue classes of a healthy brain: folded cortex, fissure, deep grey nuclei and ventricles."""
    x, y, z = head.position_mm
    side = np.abs(x)
    depth_mm = (1 - head.radius) * 74
    folds = np.abs(_smooth_noise(rng, head.shape, 22))
    shallow = np.clip(1 - depth_mm / 18, 0, 1)
    tissue = np.full(head.shape, _WM, np.uint8)
    tissue[(depth_mm < 4) | (folds < 1.1 * shallow) | ((side < 4) & (head.radius > 0.6))] = _GM
    tissue[(folds < 0.26 * shallow) | ((side < 1.3) & (head.radius > 0.55))] = _CSF
    for centre, radii in (((13, 10, 0), (8, 13, 9)), ((26, -4, 0), (5, 15, 9))):
        tissue[_ellipsoid((side, y, z), centre, radii) < 1] = _GM
    width = rng.uniform(0.8, 1.3)
    horns = _ellipsoid((side - 0.004 * y**2, y, z), (7, 0, 15), (4.5 * width, 32, 7 * width))
    third = _ellipsoid((side, y, z), (0, 4, 0), (2 * width, 12, 9))
    tissue[(horns < 1) | (third < 1)] = _CSF
    tissue[head.radius > 1] = _OUTSIDE
    return tissue


def _large_glioma(tissue: NDArray[np.uint8], head: _Head, rng: np.random.Generator) -> None:
    core = _lesion(head, _deep_point(rng), rng.uniform(15, 25), rng)
    _spread_oedema(tissue, core < rng.uniform(1.4, 1.85))
    _paint(tissue, core < 1, _ET)
    _paint(tissue, core < rng.uniform(0.68, 0.82), _NETC)


def _no_enhancing(tissue: NDArray[np.uint8], head: _Head, rng: np.random.Generator) -> None:
    core = _lesion(head, _deep_point(rng), rng.uniform(13, 21), rng)
    _spread_oedema(tissue, core < rng.uniform(1.3, 1.7))
    _paint(tissue, core < 1, _NETC)


def _small_metastases(tissue: NDArray[np.uint8], head: _Head, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(3, 7)):
        radius_mm = max(rng.uniform(4, 7.5), 1.8 * head.mm_per_voxel)
        spot = _lesion(head, _surface_point(rng, rng.uniform(0.45, 0.8)), radius_mm, rng)
        _spread_oedema(tissue, spot < rng.uniform(1.8, 2.4))
        _paint(tissue, spot < 1, _ET)


def _meningioma_like(tissue: NDArray[np.uint8], head: _Head, rng: np.random.Generator) -> None:
    mass = _lesion(head, _surface_point(rng, 0.9), rng.uniform(12, 20), rng)
    _spread_oedema(tissue, mass < rng.uniform(1.2, 1.4))
    _paint(tissue, mass < 1, _ET)


def _nothing(tissue: NDArray[np.uint8], head: _Head, rng: np.random.Generator) -> None:
    """No tumour."""


TUMOURS: Mapping[str, Callable[[NDArray[np.uint8], _Head, np.random.Generator], None]] = {
    "large_glioma": _large_glioma,
    "small_metastases": _small_metastases,
    "meningioma_like": _meningioma_like,
    "no_enhancing": _no_enhancing,
    "none": _nothing,
}


def _deep_point(rng: np.random.Generator) -> tuple[float, float, float]:
    """A point of the deep white matter of either hemisphere, in mm from the brain's centre."""
    return float(rng.choice((-1, 1)) * rng.uniform(24, 36)), rng.uniform(-42, 42), rng.uniform(-12, 32)


def _surface_point(rng: np.random.Generator, radius: float) -> tuple[float, float, float]:
    """A point of either hemisphere at `radius` (1: the surface), not at the skull base, in mm."""
    direction = rng.standard_normal(3) * (1, 1, 0.8)
    direction[0] += np.copysign(0.5, direction[0])
    direction[2] = abs(direction[2]) - 0.3
    x, y, z = _SEMI_AXES_MM * radius * direction / np.linalg.norm(direction)
    return float(x), float(y), float(z)


def _lesion(head: _Head, centre: tuple[float, float, float], radius_mm: float, rng: np.random.Generator) -> Field:
    """Distance from a lesion's centre in units of its radius, lobulated and slightly stretched."""
    radii = radius_mm * rng.uniform(0.88, 1.14, 3)
    return _ellipsoid(head.position_mm, centre, radii) + 0.11 * _smooth_noise(rng, head.shape, 11)


def _ellipsoid(position: tuple[Field, Field, Field], centre: object, radii: object) -> Field:
    """Distance from `centre` with `radii` as the unit on each axis."""
    triples = zip(position, np.asarray(centre, np.float32), np.asarray(radii, np.float32), strict=True)
    distance: Field = np.sqrt(sum(((p - c) / r) ** 2 for p, c, r in triples))
    return distance


def _spread_oedema(tissue: NDArray[np.uint8], reach: Mask) -> None:
    """Oedema follows the white matter and the deep grey, and spares the fluid spaces."""
    tissue[reach & ((tissue == _WM) | (tissue == _GM))] = _SNFH


def _paint(tissue: NDArray[np.uint8], where: Mask, kind: int) -> None:
    tissue[where & (tissue != _OUTSIDE)] = kind


def _scan(tissue: NDArray[np.uint8], brightness: tuple[float, ...], site: Site, rng: np.random.Generator) -> Field:
    """One modality of the head: partial volume, tissue texture, bias field, Rician noise, arbitrary units."""
    table = np.array(brightness, np.float32)
    table[1:] = 0.5 + site.contrast * (table[1:] - 0.5)
    signal = gaussian_filter(table[tissue], site.blur_vox)
    signal *= 1 + 0.04 * _smooth_noise(rng, tissue.shape, 24)
    signal *= np.exp(site.bias * _smooth_noise(rng, tissue.shape, 3))
    noise = rng.standard_normal((2, *tissue.shape), np.float32) * np.float32(site.noise)
    measured = np.hypot(signal + noise[0], noise[1]) * np.float32(site.scale * rng.uniform(0.9, 1.1))
    return np.where(tissue == _OUTSIDE, 0, np.maximum(measured, 1)).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Field:
    """A smooth random field of unit variance whose bumps are about 1/`cells` of the box across."""
    field: Field = rng.standard_normal((cells, cells, cells), np.float32)
    for size in shape:
        at = np.linspace(0, cells - 1, size, dtype=np.float32)[:, None] - np.arange(cells, dtype=np.float32)
        field = np.tensordot(field, np.exp(-1.5 * at**2), axes=(0, 1))
    field /= field.std()
    return field
