"""Pages in a real browser, and what is to be true of each of them."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIGHTS = ((1280, "light"), (400, "dark"))  # a desk and a phone

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
