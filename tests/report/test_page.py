"""The report: every number as the tables have it, every text escaped, readable in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from goat_ray.config import EvaluateConfig, RunConfig
from goat_ray.errors import ConfigError
from goat_ray.imaging.nifti import Grid, encode_labels
from goat_ray.report.compare import write_comparison
from goat_ray.report.page import write_report
from goat_ray.storage import RunStore
from goat_ray.tables import read_table
from tests.cohorts import write_case, write_tiny_ensemble
from tests.inline import evaluate_inline, predict_inline

SHAPE = (32, 30, 28)
HOSTILE_SITE = "<b onclick='x()'>north</b>&"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def maps(seed: int, quality: float) -> tuple[np.ndarray, np.ndarray]:
    """A reference with a few lesions, and a prediction that finds each with a probability of `quality`."""
    rng = np.random.default_rng(seed)
    reference, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    for _ in range(rng.integers(1, 4)):
        corner, size = rng.integers(1, np.array(SHAPE) - 14), rng.integers(4, 9, 3)
        for labels, shift in ((reference, 0), (prediction, rng.integers(0, 2, 3))):
            start = corner + shift
            if labels is reference or rng.random() < quality:
                labels[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = rng.choice([1, 2, 3])
    return reference, prediction


def make_run(folder: Path, quality: float) -> Path:
    """A scored run over 24 cases of two sites; one has no prediction and one is broken."""
    grid, sites = Grid(SHAPE, np.eye(4)), ["case_id,site,cohort"]
    for role in ("references", "labels"):
        (folder / role).mkdir(parents=True)
    for number in range(24):
        name = f"BraTS-GLI-{number:05d}-000"
        sites.append(f"{name},{'harbour' if number < 14 else HOSTILE_SITE},GLI")
        for role, labels in zip(("references", "labels"), maps(number, quality), strict=True):
            if not (role == "labels" and number == 3):
                (folder / role / f"{name}.nii.gz").write_bytes(encode_labels(labels, grid))
    (folder / "labels" / "BraTS-GLI-00020-000.nii.gz").write_bytes(b"broken")
    (folder / "sites.csv").write_text("\n".join(sites))
    evaluate_inline(
        EvaluateConfig(
            labels=str(folder / "labels"),
            references=str(folder / "references"),
            out=str(folder / "run"),
            spec="brats2023-gli",
            sites=str(folder / "sites.csv"),
        )
    )
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("one"), 0.7)


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("other"), 0.95)


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    write_report([str(run)], str(out))
    return out


@pytest.fixture(scope="module")
def numbers(page: Path) -> pd.DataFrame:
    return pd.read_csv(page.with_suffix(".numbers.csv"), keep_default_na=False, na_values=[""])


def table(run: Path, name: str) -> pd.DataFrame:
    return read_table(RunStore(str(run)), name).to_pandas()


def value(numbers: pd.DataFrame, title: str, row: str, column: str, what: str = "value") -> float:
    (found,) = numbers.query("table == @title and row == @row and column == @column")[what]
    return float(found)


def test_both_twins_hold_the_same_numbers(page: Path, numbers: pd.DataFrame) -> None:
    parquet = pd.read_parquet(page.with_suffix(".numbers.parquet"))
    assert len(parquet) == len(numbers) > 100
    np.testing.assert_allclose(parquet["value"].to_numpy(float), numbers["value"].to_numpy(float), equal_nan=True)


@pytest.mark.parametrize("region", ["WT", "TC", "ET"])
@pytest.mark.parametrize("site", ["harbour", HOSTILE_SITE, "all cases"])
def test_scores_are_those_of_the_tables(run: Path, numbers: pd.DataFrame, region: str, site: str) -> None:
    rows = table(run, "regions").query("region == @region and spec.notna()")
    rows = rows if site == "all cases" else rows.query("site == @site")
    title, row = f"Scores: {region}, brats2023-gli", f"lesion-wise Dice / {site}"
    scores = rows["lw_dice"]
    assert value(numbers, title, row, "cases") == len(scores)
    assert value(numbers, title, row, "mean (95 % interval)") == pytest.approx(scores.mean())
    assert value(numbers, title, row, "mean (95 % interval)", "n") == len(scores)
    assert value(numbers, title, row, "median") == pytest.approx(scores.median())
    assert value(numbers, title, row, "lower quartile") == pytest.approx(scores.quantile(0.25))
    assert value(numbers, title, row, "5th percentile") == pytest.approx(scores.quantile(0.05))
    assert value(numbers, title, row, "share below 0.5") == pytest.approx((scores < 0.5).mean())


def test_an_interval_needs_ten_patients(numbers: pd.DataFrame) -> None:
    with_interval = numbers[numbers["low"].notna() & numbers["n"].notna()]
    assert len(with_interval)
    assert with_interval["n"].min() >= 10


def test_the_way_of_the_cases_adds_up(run: Path, numbers: pd.DataFrame) -> None:
    flow = numbers.query("table == 'The way of the cases'").pivot(index="row", columns="column", values="value")
    assert (flow["expected"] == flow["done"] + flow["missing_prediction"] + flow["unreadable_file"]).all()
    assert flow.loc["all", "expected"] == len(table(run, "cases")) == 24
    assert flow.loc["all", "scored"] == (table(run, "cases")["evaluation"] == "ok").sum() == 22


def test_detection_counts_are_those_of_the_lesions(run: Path, numbers: pd.DataFrame) -> None:
    lesions = table(run, "lesions").query("kind == 'gt' and region == 'WT' and scored == True")
    title = "Lesions found: WT, brats2023-gli"
    assert value(numbers, title, "all sites / all", "lesions") == len(lesions)
    assert value(numbers, title, "all sites / all", "found") == lesions["detected"].sum()
    middle = lesions.query("100 <= volume_mm3 < 500")
    assert value(numbers, title, "all sites / 100–500", "share found") == pytest.approx(middle["detected"].mean())
    alarms = table(run, "regions").query("region == 'WT' and fp.notna()")["fp"]
    row = "WT, brats2023-gli / all sites"
    assert value(numbers, "False positives", row, "per case") == pytest.approx(alarms.mean())
    assert value(numbers, "False positives", row, "share of cases with none") == pytest.approx((alarms == 0).mean())


def test_volumes_agree_as_bland_and_altman_say(run: Path, numbers: pd.DataFrame) -> None:
    rows = table(run, "regions").query("region == 'WT' and gt_volume_mm3 > 0 and pred_volume_mm3 > 0")
    bias = 100 * np.expm1(np.log(rows["pred_volume_mm3"] / rows["gt_volume_mm3"]).mean())
    assert value(numbers, "Volume agreement", "WT / all sites", "bias (%)") == pytest.approx(bias)
    known = table(run, "regions").query("region == 'WT' and gt_volume_mm3.notna() and pred_volume_mm3.notna()")
    error = (known["pred_volume_mm3"] - known["gt_volume_mm3"]).abs().mean() / 1000
    assert value(numbers, "Volume agreement", "WT / all sites", "absolute error (ml)") == pytest.approx(error)


def test_pooling_weighs_cases_or_sites(run: Path, numbers: pd.DataFrame) -> None:
    rows = table(run, "regions").query("region == 'WT' and spec.notna()")
    row = "WT, brats2023-gli / lesion-wise Dice"
    title = "Pooled over sites"
    assert value(numbers, title, row, "case-weighted mean") == pytest.approx(rows["lw_dice"].mean())
    by_site = rows.groupby("site")["lw_dice"].mean().mean()
    assert value(numbers, title, row, "site-weighted mean") == pytest.approx(by_site)


def test_every_text_is_escaped_and_nothing_is_loaded_from_elsewhere(page: Path) -> None:
    html = page.read_text()
    assert "<b onclick" not in html
    assert "&lt;b onclick=" in html
    addresses = set(re.findall(r"https?://[^\"'<> )]+", html))
    assert {address for address in addresses if "w3.org" not in address} <= {
        "http://purl.org/dc/dcmitype/StillImage",
        "http://purl.org/dc/elements/1.1/",
        "http://creativecommons.org/ns#",
    }
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']?(http|//)", html)


def test_every_mark_of_a_figure_is_the_only_one_of_its_name(page: Path) -> None:
    marks = re.findall(r'\sid="([^"]+)"', page.read_text())
    assert len(marks) == len(set(marks))


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `predict` over three phantoms without references, one of them broken."""
    folder = tmp_path_factory.mktemp("predicted")
    for number in (1, 2, 3):
        write_case(folder / "cohort", f"case-{number}", seed=number)
    (folder / "cohort" / "case-3" / "case-3-t1c.nii.gz").write_bytes(b"broken")
    ensemble = write_tiny_ensemble(folder / "ensemble")
    predict_inline(RunConfig(cohort=str(folder / "cohort"), ensemble=str(ensemble), out=str(folder / "run")))
    return folder / "run"


def test_without_references_everything_but_the_scores_is_there(predicted: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report([str(predicted)], str(page))
    numbers = pd.read_csv(page.with_suffix(".numbers.csv"), keep_default_na=False, na_values=[""])
    html = page.read_text()
    assert "No case has a reference" in html
    assert html.count("data:image/png;base64,") == 2
    removed = table(predicted, "components")
    assert value(numbers, "Components removed", "WT", "components removed") == (removed["step"] == "WT").sum() > 0
    regions = table(predicted, "regions").query("region == 'WT'")
    assert value(numbers, "Before and after postprocessing", "WT", "before (ml, all cases)") == pytest.approx(
        regions["raw_volume_mm3"].sum() / 1000
    )
    row = "no site / WT / members agree (mean Dice of pairs)"
    assert value(numbers, "Confidence and agreement", row, "median") == pytest.approx(
        regions["member_dice_mean"].median()
    )
    steps = table(predicted, "timings").query("step == 'read'")["seconds"]
    assert value(numbers, "Time a case", "read", "median (s)") == pytest.approx(steps.median())


def test_a_failed_case_is_told_with_what_to_do(page: Path) -> None:
    html = page.read_text()
    assert "BraTS-GLI-00020-000" in html
    assert "there is a reference, but no label map." in html


def test_runs_over_the_same_cases_are_not_put_together(run: Path, better: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="goat-ray compare"):
        write_report([str(run), str(better)], str(tmp_path / "report.html"))


def test_a_report_needs_tables_and_a_name_that_fits(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        write_report([str(run)], str(tmp_path / "report.pdf"))
    with pytest.raises(ConfigError, match="no run folder"):
        write_report([str(tmp_path)], str(tmp_path / "report.html"))


def test_a_comparison_has_the_paired_differences(run: Path, better: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare.html"
    write_comparison(str(run), str(better), str(out))
    numbers = pd.read_csv(out.with_suffix(".numbers.csv"), keep_default_na=False, na_values=[""])
    both = table(run, "regions").merge(
        table(better, "regions"), on=["case_id", "region", "spec"], suffixes=("_a", "_b")
    )
    both = both.query("region == 'WT' and spec.notna()")
    difference = both["lw_dice_b"] - both["lw_dice_a"]
    row = "WT, brats2023-gli / lesion-wise Dice"
    assert value(numbers, "Differences", row, "mean difference") == pytest.approx(difference.mean())
    assert value(numbers, "Differences", row, "B wins") == (difference > 1e-9).sum()
    assert value(numbers, "Differences", row, "A wins") == (difference < -1e-9).sum()
    assert value(numbers, "Differences", row, "ties") == (difference.abs() <= 1e-9).sum()
    best = both.assign(difference=difference).sort_values(["difference", "case_id"]).iloc[-1]
    title, where = "Largest losses and gains: WT, brats2023-gli", f"{best['case_id']} / {best['site_a']}"
    assert value(numbers, title, where, "B minus A") == pytest.approx(difference.max())
    assert "same settings and weights" in out.read_text()


SORT_AND_FILTER = """
<script>
addEventListener("load", () => {
  const region = document.querySelector('[aria-label="Scores: WT, brats2023-gli"]');
  const head = region.querySelectorAll("th button")[3];
  const values = () => [...region.querySelectorAll("tbody tr")].map(row => Number(row.cells[3].dataset.sort));
  head.click();
  const up = values();
  head.click();
  const down = values();
  const field = region.previousElementSibling;
  field.value = "harbour nsd";
  field.dispatchEvent(new Event("input"));
  const left = [...region.querySelectorAll("tbody tr")].filter(row => !row.hidden).length;
  const wide = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
  document.body.insertAdjacentHTML("beforeend", `<pre id="probe">${JSON.stringify({up, down, left, wide})}</pre>`);
});
</script>
"""


def chromium(page: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    return subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 400])
def test_tables_sort_and_filter_in_a_browser_and_the_page_fits(page: Path, tmp_path: Path, width: int) -> None:
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", f"{SORT_AND_FILTER}</body>"))
    done = chromium(probed, tmp_path, f"--window-size={width},900", "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    result = json.loads(re.findall(r'<pre id="probe">(.*?)</pre>', done.stdout)[-1])
    assert result["up"] == sorted(result["up"])
    assert result["down"] == sorted(result["down"], reverse=True)
    assert result["left"] == 1
    assert result["wide"], "the page is wider than its window"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_is_dark_where_that_is_wished_and_prints(page: Path, tmp_path: Path) -> None:
    from PIL import Image

    shades = {}
    for scheme, options in (("light", []), ("dark", ["--force-dark-mode"])):
        shot = tmp_path / f"{scheme}.png"
        chromium(page, tmp_path, *options, "--window-size=600,400", f"--screenshot={shot}")
        shades[scheme] = np.asarray(Image.open(shot).convert("L"))[2, 2]
    assert shades["light"] > 200 > 60 > shades["dark"]
    chromium(page, tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
