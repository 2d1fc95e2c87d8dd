"""How to get the same again, and what the words mean."""

import json
from collections.abc import Mapping
from typing import Any

from goat_ray.report.blocks import Cell, Section, Table
from goat_ray.report.data import Cohort, in_order

_WORDS: Mapping[str, str] = {
    "WT, whole tumour": "everything that is segmented: NETC, SNFH and ET",
    "TC, tumour core": "NETC and ET",
    "ET, enhancing tumour": "what takes up contrast",
    "NETC": "necrotic and non-enhancing tumour core",
    "SNFH": "surrounding non-enhancing FLAIR hyperintensity: oedema and infiltration",
    "Dice": "overlap of prediction and reference: twice what both share, divided by the sum of both; 0 to 1",
    "NSD at 1 mm": "normalised surface Dice: share of both outlines that lie within 1 mm of the other; 0 to 1",
    "HD95": "Hausdorff distance, 95th percentile: how far 95 % of one outline stay within of the other, in mm",
    "lesion-wise": "scored for each lesion of the reference and averaged; missed and false lesions count as 0",
    "matched pairs": "each lesion of the reference is paired with at most one predicted one; only pairs are averaged",
    "penalty": "the distance that stands for a missed or false lesion, which has none",
    "detection F1": "found lesions, weighed against missed and false ones; 0 to 1",
    "95 % interval": "a range made so that nineteen of twenty such ranges hold the true value",
    "quartiles, percentiles": "a quarter of cases lies below the lower quartile, a twentieth below the 5th percentile",
    "member": "one network of the ensemble",
    "reference": "label map of an expert, which predictions are compared with",
    "site, cohort": "where a case comes from, and what kind of tumour it is, by the list given to the run",
}


def reproduction(cohort: Cohort) -> Section:
    """Versions, weights and settings of each run."""
    blocks = []
    for run in cohort.runs:
        record = run.record
        ensemble = record.get("ensemble") or {}
        facts: dict[str, object] = {
            "settings that change results": record.get("fingerprint"),
            "versions": record.get("versions"),
            "weights (sha256)": ensemble.get("members"),
            "code (git commit)": record.get("git_commit"),
            "machine": record.get("machine"),
            "inputs (sha256 of ids and names)": record.get("inputs_sha256"),
            "tables made from": record.get("tables_of"),
        }
        rows: list[list[Cell]] = [
            [name, value if isinstance(value, str) else json.dumps(value, sort_keys=True)]
            for name, value in facts.items()
            if value
        ]
        blocks.append(Table(f"Run {run.name}", "From its run.json.", ("what", "value"), rows, keys=2))
    text = (
        "What each run was made from. The numbers of all tables lie beside this file, as CSV and parquet, with their "
        "intervals and patients.",
    )
    return Section("reproduction", "How to reproduce it", text, [*blocks, *_rules(cohort)])


def words(_cohort: Cohort) -> Section:
    """What the abbreviations and measures are."""
    rows: list[list[Cell]] = [[word, meaning] for word, meaning in _WORDS.items()]
    table = Table("Words and measures", "", ("word", "meaning"), rows, keys=2)
    return Section("words", "What the words mean", (), (table,))


def _rules(cohort: Cohort) -> list[Table]:
    """How each spec that cases were scored with counts lesions."""
    used = set(cohort.scored["spec"])
    specs = {
        spec["name"]: spec for run in cohort.runs for spec in run.record.get("specs") or () if spec["name"] in used
    }
    rows = [_rule(spec, name, spec["regions"][name]) for spec in specs.values() for name in in_order(spec["regions"])]
    heads = (
        *("rules", "region", "labels", "matching", "joined within (voxels)", "not scored up to (mm³)"),
        *("predicted lesions dropped up to (voxels)", "penalty (mm)", "official"),
    )
    caption = (
        "Joined within: pieces of a lesion whose outlines, grown by so many voxels, meet are one lesion. Not scored: "
        "reference lesions of this volume or less. Penalty: HD95 of a missed or false lesion; diagonal: of the image, "
        "in voxels. Official: whether the challenge's organisers score this region."
    )
    return [Table("Rules of scoring", caption, heads, rows, digits=0, keys=4)] if rows else []


def _rule(spec: dict[str, Any], name: str, region: dict[str, Any]) -> list[Cell]:
    return [
        spec["name"],
        name,
        ", ".join(map(str, region["labels"])),
        spec["matching"],
        region["dilation_vox"],
        region["min_volume_mm3"],
        "none dropped" if region["min_pred_vox"] is None else region["min_pred_vox"],
        spec["hd95_penalty"],
        "yes" if region["official"] else "no",
    ]
