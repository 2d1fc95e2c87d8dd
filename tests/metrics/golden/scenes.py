"""Seeded scenes with a reference and a prediction, on which the organisers' programs were run.

Every random number comes from a splitmix64 hash in whole-number arithmetic, and every shape from + - * / alone, so
that the arrays are the same on every machine and under every numpy: `cases.json` holds the SHA-256 of each.

Labels are BraTS-GoAT's: 1 NETC, 2 SNFH, 3 ET, and 4 RC in the scenes that say so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

U = np.uint64
MASK_64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A pair of label maps (x, y, z), C order, and the spacing of their grid."""

    reference: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)


@cache
def scene(name: str) -> Scene:
    """The scene of this name, made once; leave its arrays as they are."""
    made = Scene(*MAKERS[name]())
    made.reference.flags.writeable = made.prediction.flags.writeable = False
    return made


def _mix(x: int) -> int:
    """The finaliser of splitmix64."""
    x = (x + 0x9E3779B97F4A7C15) & MASK_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)


def _mix_all(x: np.ndarray) -> np.ndarray:
    """The same for each number of an array."""
    x = x.astype(U)
    with np.errstate(over="ignore"):
        x = x + U(0x9E3779B97F4A7C15)
        x = (x ^ (x >> U(30))) * U(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> U(27))) * U(0x94D049BB133111EB)
    return x ^ (x >> U(31))


class Rng:
    """A small generator that counts; portable by construction."""

    def __init__(self, seed: int):
        self.s = _mix(seed)
        self.n = 0

    def u(self) -> float:
        """A number in [0, 1)."""
        self.n += 1
        return (_mix(self.s ^ (self.n * 0xD1342543DE82EF95 & MASK_64)) >> 11) / float(1 << 53)

    def uni(self, a: float, b: float) -> float:
        """A number in [a, b)."""
        return a + (b - a) * self.u()

    def int(self, a: int, b: int) -> int:
        """A whole number in [a, b]."""
        return a + int(self.u() * (b - a + 1))

    def seed(self) -> int:
        """A seed for noise."""
        self.n += 1
        return _mix(self.s ^ (self.n * 0xA24BAED4963EE407 & MASK_64))


def _lattice_noise(x, y, z, seed, pitch):
    """Trilinear noise in [0, 1) at coordinates that broadcast."""
    gx, gy, gz = x / pitch, y / pitch, z / pitch
    ix, iy, iz = (np.floor(g).astype(np.int64) for g in (gx, gy, gz))
    fx, fy, fz = gx - ix, gy - iy, gz - iz

    def at(i, j, k):
        i, j, k = ((n + 4096).astype(U) for n in (i, j, k))
        key = i * U(73856093) ^ j * U(19349663) ^ k * U(83492791)
        v = _mix_all(key ^ U(seed & MASK_64))
        return (v >> U(11)).astype(np.float64) / float(1 << 53)

    out = 0.0
    for di in (0, 1):
        wx = fx if di else 1.0 - fx
        for dj in (0, 1):
            wy = fy if dj else 1.0 - fy
            for dk in (0, 1):
                wz = fz if dk else 1.0 - fz
                out = out + wx * wy * wz * at(ix + di, iy + dj, iz + dk)
    return out


def blob(vol, centre, radii, label, seed=0, rough=0.0, pitch=5.0, only=None):
    """Paint a (rough) ellipsoid, over the labels `only` where that is given."""
    bounds = list(zip(centre, radii, vol.shape, strict=True))
    lo = [max(0, int(np.floor(c - r * (1 + rough) - 1))) for c, r, _ in bounds]
    hi = [min(n, int(np.ceil(c + r * (1 + rough) + 2))) for c, r, n in bounds]
    if any(a >= b for a, b in zip(lo, hi, strict=True)):
        return
    x, y, z = (g.astype(np.float64) for g in np.ogrid[lo[0] : hi[0], lo[1] : hi[1], lo[2] : hi[2]])
    f = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((z - centre[2]) / radii[2]) ** 2
    if rough > 0:
        n = _lattice_noise(x + 0 * y + 0 * z, y + 0 * x + 0 * z, z + 0 * x + 0 * y, seed, pitch)
        edge = 1.0 + rough * (2.0 * n - 1.0)
        inside = f <= edge * edge
    else:
        inside = f <= 1.0
    sub = vol[lo[0] : hi[0], lo[1] : hi[1], lo[2] : hi[2]]
    if only is not None:
        inside &= np.isin(sub, only)
    sub[inside] = label


def box(vol, lo, hi, label):
    """Paint a half-open box."""
    vol[lo[0] : hi[0], lo[1] : hi[1], lo[2] : hi[2]] = label


def new(shape=(64, 64, 48)):
    """An empty map."""
    return np.zeros(shape, np.uint8)


# --- realistic pairs


def _brain_point(r, shape, margin):
    c = [n / 2.0 for n in shape]
    ax = [n * 0.30 for n in shape[:2]] + [shape[2] * 0.36]
    while True:
        p = [r.uni(c[i] - ax[i], c[i] + ax[i]) for i in range(3)]
        is_inside = sum(((p[i] - c[i]) / ax[i]) ** 2 for i in range(3)) < 1.0
        if is_inside and all(margin <= p[i] < shape[i] - margin for i in range(3)):
            return p


def glioma_pair(seed, shape=(240, 240, 155), scale=1.0):
    """One to three large lesions, core in tumour in oedema, with satellites; the prediction is jittered."""
    r = Rng(seed)
    gt, pr = new(shape), new(shape)
    for k in range(r.int(1, 3)):
        big = 1.0 if k == 0 else r.uni(0.35, 0.6)
        c = _brain_point(r, shape, 40 * scale if k == 0 else 20 * scale)
        rw = [r.uni(24, 34) * big * scale for _ in range(3)]
        tc = [c[i] + r.uni(-4, 4) * big * scale for i in range(3)]
        rt = [v * r.uni(0.45, 0.65) for v in rw]
        rn = [v * r.uni(0.45, 0.7) for v in rt]
        s = [r.seed() for _ in range(6)]
        blob(gt, c, rw, 2, s[0], 0.30, 9.0)
        blob(gt, tc, rt, 3, s[1], 0.25, 6.0)
        blob(gt, tc, rn, 1, s[2], 0.30, 5.0, only=(3,))
        d = [r.uni(-1.5, 1.5) for _ in range(3)]
        g = r.uni(0.93, 1.06)
        pc = [c[i] + d[i] for i in range(3)]
        ptc = [tc[i] + d[i] * 0.7 for i in range(3)]
        blob(pr, pc, [v * g for v in rw], 2, s[3], 0.30, 9.0)
        blob(pr, ptc, [v * g for v in rt], 3, s[4], 0.25, 6.0)
        blob(pr, ptc, [v * g * r.uni(0.85, 1.1) for v in rn], 1, s[5], 0.30, 5.0, only=(3,))
    for _ in range(r.int(3, 7)):  # satellites in the reference, in the prediction or in both
        c = _brain_point(r, shape, 6)
        rad = r.uni(1.2, 3.4)
        lab = (2, 3, 3)[r.int(0, 2)]
        where = r.int(0, 2)
        if where in (0, 2):
            blob(gt, c, [rad] * 3, lab, only=(0, 2))
        if where in (1, 2):
            blob(pr, [c[0] + r.uni(-1, 1), c[1], c[2] + r.uni(-1, 1)], [rad] * 3, lab, only=(0, 2))
    return gt, pr


def mets_pair(seed, shape=(240, 240, 155), n_lesions=None):
    """Small enhancing lesions (20 to 60 unless said), some with core and oedema, some missed, some false."""
    r = Rng(seed)
    gt, pr = new(shape), new(shape)
    n_lesions = n_lesions or r.int(20, 60)
    for _ in range(n_lesions):
        c = _brain_point(r, shape, 10)
        big = r.u() < 0.15
        rad = [r.uni(4.5, 8.5) if big else r.uni(1.0, 3.6) for _ in range(3)]
        oed = r.u() < (0.9 if big else 0.35)
        core = big and r.u() < 0.7
        s = [r.seed() for _ in range(6)]
        ro = [v * r.uni(1.5, 2.2) for v in rad]
        rc = [v * r.uni(0.3, 0.6) for v in rad]
        radii = (ro if oed else None, rad, rc if core else None)
        _metastasis(gt, c, radii, 1.0, s[:3])
        if r.u() < (0.97 if big else 0.78):
            d = [r.uni(-0.8, 0.8) for _ in range(3)]
            _metastasis(pr, [c[i] + d[i] for i in range(3)], radii, r.uni(0.85, 1.15), s[3:])
    for _ in range(max(2, n_lesions // 8)):
        c = _brain_point(r, shape, 10)
        blob(pr, c, [r.uni(0.8, 2.5)] * 3, 3, only=(0, 2))
    return gt, pr


def _metastasis(vol, centre, radii, q, seeds):
    oedema, tumour, core = radii
    if oedema:
        blob(vol, centre, [a * q for a in oedema], 2, seeds[0], 0.25, 5.0, only=(0,))
    blob(vol, centre, [a * q for a in tumour], 3, seeds[1], 0.2, 4.0, only=(0, 2))
    if core:
        blob(vol, centre, [a * q for a in core], 1, seeds[2], 0.2, 4.0, only=(3,))


def fuzz_pair(seed, spacing_mm, shape=(48, 44, 40)):
    """Small dense scenes of random shapes: many merges, splits, islands of labels, lesions cut by the border."""
    r = Rng(seed)
    gt, pr = new(shape), new(shape)
    nl = 4 if seed % 5 == 0 else 3
    for _ in range(r.int(2, 9)):
        c = [r.uni(-1, n) for n in shape]
        rad = [r.uni(0.6, 6.0) for _ in range(3)]
        lab = r.int(1, nl)
        s1, s2 = r.seed(), r.seed()
        fate = r.u()
        if fate < 0.80:
            blob(gt, c, rad, lab, s1, 0.4, 3.0)
            if r.u() < 0.4:
                blob(gt, c, [v * 0.5 for v in rad], r.int(1, nl), s1, 0.3, 3.0)
        if fate > 0.15:
            d = [r.uni(-2.0, 2.0) for _ in range(3)]
            q = r.uni(0.7, 1.3)
            lab2 = lab if r.u() < 0.85 else r.int(1, nl)
            blob(pr, [c[i] + d[i] for i in range(3)], [v * q for v in rad], lab2, s2, 0.4, 3.0)
            if r.u() < 0.4:
                blob(pr, c, [v * 0.5 for v in rad], r.int(1, nl), s2, 0.3, 3.0)
    for _ in range(r.int(0, 4)):
        p = tuple(r.int(0, n - 1) for n in shape)
        (gt if r.u() < 0.5 else pr)[p] = r.int(1, nl)
    return gt, pr, spacing_mm


# --- edge cases, made by hand

MAKERS: dict[str, Callable[[], tuple]] = {}
"""What makes each scene, by name."""


def _edge(maker):
    MAKERS[maker.__name__] = maker
    return maker


@_edge
def perfect():
    """Identical nested tumour in both."""
    g = new()
    blob(g, (30, 32, 24), (14, 12, 10), 2)
    blob(g, (30, 32, 24), (9, 8, 7), 3)
    blob(g, (30, 32, 24), (5, 4, 4), 1)
    return g, g.copy()


@_edge
def both_empty():
    """No label in either."""
    return new(), new()


@_edge
def gt_empty_one_fp():
    """Nothing to find, one predicted lesion of 7x7x7."""
    p = new()
    box(p, (20, 20, 20), (27, 27, 27), 3)
    return new(), p


@_edge
def gt_empty_three_fp():
    """Nothing to find, three predicted lesions of different labels, far apart."""
    p = new()
    box(p, (5, 5, 5), (10, 10, 10), 3)
    box(p, (30, 30, 30), (36, 35, 34), 2)
    box(p, (50, 10, 20), (56, 15, 25), 1)
    return new(), p


@_edge
def pred_empty():
    """All missed."""
    g = new()
    blob(g, (30, 32, 24), (10, 9, 8), 2)
    blob(g, (30, 32, 24), (6, 6, 5), 3)
    return g, new()


@_edge
def one_missed_one_fp():
    """One hit, one miss, one false positive."""
    g, p = new(), new()
    box(g, (5, 5, 5), (12, 12, 12), 3)
    box(g, (40, 40, 30), (47, 47, 37), 3)
    box(p, (6, 5, 5), (13, 12, 12), 3)
    box(p, (40, 5, 30), (47, 12, 37), 3)
    return g, p


@_edge
def pred_bridges_two_gt():
    """One predicted component covers two separate true lesions."""
    g, p = new(), new()
    box(g, (8, 20, 20), (16, 28, 28), 3)
    box(g, (40, 20, 20), (48, 28, 28), 3)
    box(p, (8, 21, 21), (48, 27, 27), 3)
    return g, p


@_edge
def two_preds_one_gt():
    """One true lesion predicted as two fragments."""
    g, p = new(), new()
    box(g, (10, 20, 20), (40, 30, 28), 3)
    box(p, (10, 20, 20), (22, 30, 28), 3)
    box(p, (28, 20, 20), (40, 30, 28), 3)
    return g, p


@_edge
def gt_merge_gap2():
    """Two true boxes 2 voxels apart: one lesion at dilation 1 and 3."""
    g, p = new(), new()
    box(g, (10, 20, 20), (18, 28, 28), 3)
    box(g, (20, 20, 20), (28, 28, 28), 3)
    box(p, (10, 20, 20), (18, 28, 28), 3)
    return g, p


@_edge
def gt_merge_gap5():
    """Two true boxes 5 voxels apart: two lesions at dilation 1, one at dilation 3."""
    g, p = new(), new()
    box(g, (10, 20, 20), (18, 28, 28), 3)
    box(g, (23, 20, 20), (31, 28, 28), 3)
    box(p, (10, 20, 20), (18, 28, 28), 3)
    return g, p


@_edge
def gt_merge_gap8_corner():
    """Boxes separated along a body diagonal: the 18-neighbour ball is not a cube."""
    g, p = new(), new()
    box(g, (10, 10, 10), (16, 16, 16), 3)
    box(g, (21, 21, 21), (27, 27, 27), 3)
    box(p, (21, 21, 21), (27, 27, 27), 3)
    return g, p


@_edge
def near_miss_in_shell():
    """Prediction touches only the dilated shell (2 voxels away): matched, Dice 0."""
    g, p = new(), new()
    box(g, (10, 20, 20), (18, 28, 28), 3)
    box(p, (20, 20, 20), (28, 28, 28), 3)
    return g, p


@_edge
def near_miss_outside_shell():
    """Prediction 6 voxels away: FN + FP at every dilation."""
    g, p = new(), new()
    box(g, (10, 20, 20), (18, 28, 28), 3)
    box(p, (25, 20, 20), (33, 28, 28), 3)
    return g, p


SIZES = {
    1: (1, 1, 1), 2: (2, 1, 1), 3: (3, 1, 1), 10: (5, 2, 1), 11: (11, 1, 1), 20: (5, 2, 2),
    21: (7, 3, 1), 50: (5, 5, 2), 51: (17, 3, 1),
}  # fmt: skip


def _sizes():
    """Lesions of just the sizes at which some threshold is, one more and one less."""
    vol = new((66, 60, 30))
    for k, sides in enumerate(SIZES.values()):
        start = (2 + 21 * (k % 3), 2 + 14 * (k // 3), 2)
        box(vol, start, [a + side for a, side in zip(start, sides, strict=True)], 3)
    return vol


@_edge
def thresholds_all_missed():
    """True lesions of 1, 2, 3, 10, 11, 20, 21, 50 and 51 voxels, none predicted."""
    return _sizes(), new((66, 60, 30))


@_edge
def thresholds_all_fp():
    """Predicted lesions of these sizes, nothing true."""
    return new((66, 60, 30)), _sizes()


@_edge
def thresholds_all_hit():
    """The same nine lesions, predicted exactly."""
    return _sizes(), _sizes()


@_edge
def small_gt_matched_by_big_pred():
    """Sub-threshold true lesion hit by a large prediction: neither TP nor FP."""
    g, p = new(), new()
    box(g, (20, 20, 20), (21, 21, 21), 3)
    box(p, (18, 18, 18), (26, 26, 26), 3)
    return g, p


@_edge
def small_gt_missed_only():
    """Only a sub-threshold true lesion, nothing predicted: scores 1 / 0."""
    g = new()
    box(g, (20, 20, 20), (21, 21, 21), 3)
    return g, new()


@_edge
def small_pred_hits_big_gt():
    """2-voxel prediction inside a large lesion (dropped before matching from 2024 on)."""
    g, p = new(), new()
    box(g, (20, 20, 20), (30, 30, 30), 3)
    box(p, (25, 25, 25), (27, 26, 26), 3)
    return g, p


@_edge
def border_corners():
    """Lesions cut by every corner of the volume."""
    g, p = new(), new()
    nx, ny, nz = g.shape
    for i, x in enumerate((0, nx)):
        for j, y in enumerate((0, ny)):
            for k, z in enumerate((0, nz)):
                blob(g, (x, y, z), (8, 7, 6), 3)
                if (i + j + k) % 3 != 2:
                    blob(p, (x + (1 if i == 0 else -2), y, z), (8, 7, 6), 3)
    return g, p


@_edge
def connectivity_corner():
    """Boxes touching by a face, an edge and a corner only."""
    g, p = new(), new()
    box(g, (4, 4, 4), (9, 9, 9), 3)
    box(g, (9, 9, 9), (14, 14, 14), 3)  # corner
    box(g, (30, 4, 4), (35, 9, 9), 3)
    box(g, (35, 9, 4), (40, 14, 9), 3)  # edge
    box(p, (4, 4, 4), (9, 9, 9), 3)
    box(p, (35, 9, 4), (40, 14, 9), 3)
    box(p, (50, 50, 40), (55, 55, 44), 3)
    box(p, (55, 55, 44), (60, 60, 48), 3)  # one FP by 26-connectivity
    return g, p


@_edge
def anisotropic():
    """Spacing 1 x 1 x 3 mm: threshold in mm3, distances in mm."""
    g, p = new((60, 60, 20)), new((60, 60, 20))
    blob(g, (20, 20, 9), (9, 8, 3), 2)
    blob(g, (20, 20, 9), (5, 5, 2), 3)
    blob(p, (22, 20, 10), (9, 8, 3), 2)
    blob(p, (22, 20, 10), (5, 5, 2), 3)
    box(g, (45, 45, 5), (50, 49, 6), 3)  # 20 voxels = 60 mm3
    box(p, (45, 10, 5), (48, 13, 6), 3)  # 9 voxels = 27 mm3 FP
    return g, p, (1.0, 1.0, 3.0)


@_edge
def subvoxel_spacing():
    """Spacing 0.5 x 0.5 x 2 mm."""
    g, p = new((64, 64, 24)), new((64, 64, 24))
    blob(g, (25, 25, 12), (12, 10, 4), 3)
    blob(p, (26, 25, 12), (12, 11, 4), 3)
    box(g, (50, 50, 3), (56, 56, 6), 3)  # 108 voxels = 54 mm3
    box(p, (50, 10, 3), (53, 13, 5), 3)  # 18 voxels = 9 mm3
    return g, p, (0.5, 0.5, 2.0)


@_edge
def odd_spacing():
    """Spacing 0.9375 x 0.9375 x 1.2 mm."""
    g, p = new((60, 60, 40)), new((60, 60, 40))
    blob(g, (25, 25, 20), (11, 9, 8), 2, 5, 0.3)
    blob(g, (25, 25, 20), (7, 6, 5), 3, 6, 0.3)
    blob(p, (26, 24, 20), (11, 10, 8), 2, 7, 0.3)
    blob(p, (26, 24, 21), (7, 6, 5), 3, 8, 0.3)
    return g, p, (0.9375, 0.9375, 1.2)


@_edge
def oedema_only():
    """Label 2 only: ET and TC empty in both."""
    g, p = new(), new()
    blob(g, (30, 30, 24), (12, 11, 9), 2)
    blob(p, (31, 29, 24), (12, 11, 9), 2)
    return g, p


@_edge
def et_islands_in_core():
    """Three ET islands around one NETC core: joined through the core from 2024 on."""
    g, p = new(), new()
    blob(g, (32, 32, 24), (10, 10, 9), 1)
    for c in ((20, 32, 24), (44, 32, 24), (32, 44, 24)):
        box(g, (c[0] - 2, c[1] - 2, c[2] - 2), (c[0] + 3, c[1] + 3, c[2] + 3), 3)
    blob(p, (32, 32, 24), (10, 10, 9), 1)
    for c in ((20, 32, 24), (44, 32, 24)):
        box(p, (c[0] - 2, c[1] - 2, c[2] - 2), (c[0] + 3, c[1] + 3, c[2] + 3), 3)
    return g, p


@_edge
def et_chain_two_cores():
    """ET - core A - ET - core B - ET chain: the 2024 join keeps only the first contact."""
    g = new((96, 40, 32))
    p = new((96, 40, 32))
    for x in (4, 40, 76):
        box(g, (x, 14, 12), (x + 6, 20, 18), 3)
        box(p, (x, 14, 12), (x + 6, 20, 18), 3)
    for x in (10, 46):
        box(g, (x, 14, 12), (x + 30, 20, 18), 1)
        box(p, (x, 14, 12), (x + 30, 20, 18), 1)
    p[40:46, 14:20, 12:18] = 1
    return g, p


@_edge
def resection_cavity():
    """Label 4 next to the tumour."""
    g, p = new(), new()
    blob(g, (28, 30, 24), (12, 11, 9), 2)
    blob(g, (28, 30, 24), (7, 6, 6), 3)
    blob(g, (44, 30, 24), (7, 7, 7), 4)
    blob(p, (29, 30, 24), (12, 11, 9), 2)
    blob(p, (29, 30, 24), (7, 6, 6), 3)
    blob(p, (43, 31, 24), (7, 7, 7), 4)
    return g, p


@_edge
def hollow_shell():
    """True lesion is a shell, prediction fills it; one predicted speck inside a second shell."""
    g, p = new(), new()
    blob(g, (18, 30, 24), (11, 11, 11), 3)
    blob(g, (18, 30, 24), (8, 8, 8), 0)
    blob(p, (18, 30, 24), (11, 11, 11), 3)
    blob(g, (46, 30, 24), (11, 11, 11), 3)
    blob(g, (46, 30, 24), (9, 9, 9), 0)
    box(p, (45, 29, 23), (48, 32, 26), 3)
    return g, p


@_edge
def planar_lesion():
    """One-voxel-thick sheets and rods: surfels on every voxel."""
    g, p = new(), new()
    box(g, (10, 10, 10), (40, 40, 11), 3)
    box(p, (10, 10, 11), (40, 40, 12), 3)
    box(g, (10, 50, 30), (50, 51, 31), 3)
    box(p, (10, 50, 30), (45, 51, 31), 3)
    return g, p


@_edge
def many_tiny():
    """280 three-voxel lesions on a grid, a third predicted (ids above 255)."""
    g, p = new((72, 64, 60)), new((72, 64, 60))
    k = 0
    for x in range(2, 70, 9):
        for y in range(2, 62, 8):
            for z in range(2, 58, 11):
                if k < 280:
                    box(g, (x, y, z), (x + 3, y + 1, z + 1), 3)
                    if k % 3 == 0:
                        box(p, (x, y, z), (x + 3, y + 1, z + 1), 3)
                    k += 1
    return g, p


@_edge
def pred_wraps_everything():
    """Prediction floods the volume."""
    g, p = new((40, 40, 32)), new((40, 40, 32))
    box(g, (10, 10, 10), (18, 18, 18), 3)
    p[:] = 3
    return g, p


@_edge
def swapped_labels():
    """Right extent, wrong classes."""
    g, p = new(), new()
    blob(g, (30, 32, 24), (14, 12, 10), 2)
    blob(g, (30, 32, 24), (9, 8, 7), 3)
    blob(g, (30, 32, 24), (5, 4, 4), 1)
    p[g == 2] = 3
    p[g == 3] = 1
    p[g == 1] = 2
    return g, p


@_edge
def one_fp_per_slice():
    """A dozen isolated single-voxel false positives around one good lesion."""
    g, p = new(), new()
    blob(g, (30, 30, 24), (8, 8, 8), 3)
    blob(p, (30, 30, 24), (8, 8, 8), 3)
    for k in range(12):
        p[2 + 5 * (k % 6), 2 + 58 * (k // 6), 4 + 3 * k] = 3
    return g, p


@_edge
def touching_different_fate():
    """Two true lesions share one prediction through the dilated shell only."""
    g, p = new(), new()
    box(g, (8, 20, 20), (16, 28, 28), 3)
    box(g, (30, 20, 20), (38, 28, 28), 3)
    box(p, (18, 20, 20), (28, 28, 28), 3)
    return g, p


@_edge
def asym_distance():
    """Prediction has a long thin tail: the two directed HD95 differ."""
    g, p = new(), new()
    blob(g, (20, 30, 24), (10, 10, 10), 3)
    blob(p, (20, 30, 24), (10, 10, 10), 3)
    box(p, (30, 29, 23), (58, 32, 26), 3)
    return g, p


MAKERS |= {f"fuzz_{s:02d}": partial(fuzz_pair, 1000 + s, (1.0, 1.0, 2.5 if s % 3 == 2 else 1.0)) for s in range(1, 16)}
MAKERS |= {f"glioma_small_{s}": partial(glioma_pair, 50 + s, (96, 96, 80), 0.42) for s in (1, 2)}
MAKERS |= {f"mets_small_{s}": partial(mets_pair, 60 + s, (96, 96, 80), 8 + 3 * s) for s in (1, 2)}
MAKERS["glioma_full_1"] = partial(glioma_pair, 1)
