"""Pages in a browser: they sort, filter, fit their window and overlap nowhere, are dark where wished, and print."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goat_ray.cases import Case
from goat_ray.config import RunConfig
from goat_ray.labels import REGIONS
from goat_ray.pipeline.rows import Row
from goat_ray.pipeline.stages import Predict, PredictSettings
from goat_ray.report.compare import write_comparison
from goat_ray.report.page import write_report
from tests.browser import CHROMIUM, SIGHTS, check, check_print
from tests.inline import predict_inline
from tests.report.runs import table, twin

EDGE = 12  # voxels of the blocks that the stub looks for

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.mark.parametrize(("width", "scheme"), SIGHTS)
def test_the_page_of_scores_works_and_fits(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    check(page, tmp_path, width, scheme)


@pytest.mark.parametrize(("width", "scheme"), SIGHTS)
def test_the_page_without_references_works_and_shows_its_cases(
    predicted_page: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    assert check(predicted_page, tmp_path, width, scheme) == 2


def test_the_comparison_works_and_fits(run: Path, better: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare.html"
    write_comparison(str(run), str(better), str(out))
    check(out, tmp_path, 400, "light")


def test_the_page_prints(page: Path, tmp_path: Path) -> None:
    check_print(page, tmp_path)


class BrightestBlock(Predict):
    """A worker without members: nested cubes around the brightest block of t1c are the tumour."""

    def __init__(self, settings: PredictSettings) -> None:
        self._settings = settings

    def _work(self, case: Case, row: Row, context: dict[str, Any]) -> Row:
        image = row["image_0"][0]
        whole = image[tuple(slice(0, size // EDGE * EDGE) for size in image.shape)]
        blocks = whole.reshape([part for size in whole.shape for part in (size // EDGE, EDGE)]).mean(axis=(1, 3, 5))
        at = np.array(np.unravel_index(blocks.argmax(), blocks.shape)) * EDGE
        labels = np.zeros(image.shape, np.uint8)
        for label, more in ((2, 10), (3, 4), (1, 0)):
            labels[tuple(slice(max(0, start - more), start + EDGE + more) for start in at)] = label
        context["confidence"] = {"entropy": 0.2, "margin": 0.7, **dict.fromkeys(REGIONS, 0.9)}
        agreement = {"member_dice_mean": 0.8, "member_dice_min": 0.7, "member_volume_cv": 0.1}
        context["agreement"] = dict.fromkeys(("WT", "TC", "ET"), agreement)
        context["members"] = ["A", "B"]
        return {"labels": labels}


@pytest.mark.real_data
def test_the_page_over_real_cases_works_in_every_way(data_root: Path, ensemble: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = RunConfig(
        cohort=str(data_root / "cohort"),
        sites=str(data_root / "sites.csv"),
        ensemble=str(ensemble),
        spec="brats2023-gli",
        out=str(out),
    )
    predict_inline(config, worker=BrightestBlock)
    assert (table(out, "cases")["status"] == "ok").all()
    page = tmp_path / "report.html"
    write_report([str(out)], str(page))
    lowest = twin(page).query("table.str.startswith('Lowest scores')")["row"].str.split(" / ").str[0]
    for width, scheme in SIGHTS:
        assert check(page, tmp_path, width, scheme) == lowest.nunique() > 0
    check_print(page, tmp_path)
