"""Pages in a browser: they sort, filter, fit their window and overlap nowhere, are dark where wished, and print."""

import json
import re
import shutil
import subprocess
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
from tests.inline import predict_inline
from tests.report.runs import table, twin

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIGHTS = ((1280, "light"), (400, "dark"))  # a desk and a phone
EDGE = 12  # voxels of the blocks that the stub looks for

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

PROBE = """
<script>
addEventListener("load", () => {
  const found = {tables: 0, unsorted: [], unfiltered: [], loose: [], overlaps: [], cut: [], images: 0};
  for (const table of document.querySelectorAll("table")) {
    const title = table.parentElement.getAttribute("aria-label");
    const rows = [...table.tBodies[0].rows];
    const heads = [...table.querySelectorAll("th button")];
    found.tables += 1;
    heads.forEach((head, index) => {
      const values = () => [...table.tBodies[0].rows].filter(row => "sort" in row.cells[index].dataset)
        .map(row => Number(row.cells[index].dataset.sort));
      for (const sign of [1, -1]) {
        head.click();
        const now = values();
        if (now.some((value, place) => place && sign * (value - now[place - 1]) < 0)) found.unsorted.push(title);
      }
    });
    const filter = table.parentElement.previousElementSibling;
    if (rows.length > 8 && filter?.className !== "filter") found.unfiltered.push(title);
    if (rows.length > 8) {
      const word = rows[0].cells[0].textContent.trim().toLowerCase();
      const wanted = rows.filter(row => row.textContent.toLowerCase().includes(word)).length;
      filter.value = word.replace(/\\s+/g, " ");
      filter.dispatchEvent(new Event("input"));
      if (rows.filter(row => !row.hidden).length !== wanted) found.unfiltered.push(title);
      filter.value = "";
      filter.dispatchEvent(new Event("input"));
      if (rows.some(row => row.hidden)) found.unfiltered.push(title);
    }
    if (rows.length && getComputedStyle(rows[0].cells[0]).position !== "sticky") found.loose.push(title);
  }
  for (const svg of document.querySelectorAll("figure svg")) {
    const title = svg.closest("figure").getAttribute("aria-label"), frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    boxes.forEach(([text, box], place) => {
      if (box.left < frame.left - 2 || box.right > frame.right + 2 || box.top < frame.top - 2
          || box.bottom > frame.bottom + 2) found.cut.push(`${title}: ${text}`);
      for (const [other, its] of boxes.slice(place + 1))
        if (Math.min(box.right, its.right) - Math.max(box.left, its.left) > 1
            && Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top) > 3)
          found.overlaps.push(`${title}: ${text} / ${other}`);
    });
  }
  found.images = document.querySelectorAll("figure img").length;
  found.paper = getComputedStyle(document.body).backgroundColor;
  found.ink = getComputedStyle(document.body).color;
  found.fits = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
  const pre = document.createElement("pre");
  pre.id = "probe";
  pre.textContent = JSON.stringify(found);
  document.body.append(pre);
});
</script>
"""


def chromium(page: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    return subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120)


def check(page: Path, tmp_path: Path, width: int, scheme: str) -> int:
    """Whatever is true of every page at any width and in both colour schemes; returns how many pictures it has."""
    found = probe(page, tmp_path, f"--window-size={width},900", *(["--force-dark-mode"] if scheme == "dark" else []))
    assert found["tables"] == page.read_text().count("<table>") > 3
    assert found["fits"], "the page is wider than its window"
    for fault in ("unsorted", "unfiltered", "loose", "cut", "overlaps"):
        assert not found[fault], f"{fault}: {found[fault]}"
    paper, ink = (sum(map(int, re.findall(r"\d+", found[what])[:3])) / 3 for what in ("paper", "ink"))
    assert (paper > 200 > 60 > ink) if scheme == "light" else (ink > 200 > 60 > paper)
    return int(found["images"])


def probe(page: Path, tmp_path: Path, *options: str) -> dict[str, Any]:
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
    done = chromium(probed, tmp_path, *options, "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    return json.loads(re.findall(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[-1])


def check_print(page: Path, tmp_path: Path) -> None:
    chromium(page, tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


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
