"""The files of a finished case as bytes, from what its crop holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goat_ray.imaging.geometry import Box, from_network_axes, network_spacing_mm, to_network_axes, uncrop
from goat_ray.imaging.nifti import Grid, encode_probabilities
from goat_ray.imaging.thumbnails import Scene, draw
from goat_ray.labels import LabelMap


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a case's crop (z, y, x) lies: box and shape of the full volume in network axes, grid of the file."""

    grid: Grid
    box: Box
    full_shape: tuple[int, int, int]

    @classmethod
    def of(cls, context: Mapping[str, Any]) -> "Place":
        """The place that `Read` noted in a case's context."""
        return cls(Grid.from_dict(context["grid"]), box_of(context), tuple(context["full_shape"]))

    def uncropped(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The file's volume (x, y, z) that holds a crop and zero elsewhere; in memory mostly as in the file."""
        return from_network_axes(uncrop(crop, self.box, self.full_shape), self.grid.affine)

    def cropped(self, volume: LabelMap) -> LabelMap:
        """The crop of a file's volume (x, y, z)."""
        return to_network_axes(volume, self.grid.affine)[self.box.slices]


def box_of(context: Mapping[str, Any]) -> Box:
    """The box that `Read` noted in a case's context."""
    start, stop = context["box"]
    return Box(tuple(start), tuple(stop))


def probabilities_file(regions: NDArray[np.uint8], place: Place) -> bytes:
    """The file of quantised region probabilities (region, z, y, x) of the crop; empty where there are none."""
    if not regions.size:
        return b""
    whole = np.stack([place.uncropped(region) for region in regions], axis=-1)
    return encode_probabilities(whole, place.grid)


def thumbnail_file(grey: NDArray[np.uint8], prediction: LabelMap, reference: LabelMap | None, place: Place) -> bytes:
    """The picture of a case; empty where no grey volume was made for one.

    Args:
        grey: what `thumbnails.grey_volume` made of the crop.
        prediction: labels of the crop (z, y, x).
        reference: labels of the file (x, y, z).
        place: where the crop lies.
    """
    if not grey.size:
        return b""
    theirs = None if reference is None else place.cropped(reference)
    return draw(Scene(grey, prediction, theirs, network_spacing_mm(place.grid)))
