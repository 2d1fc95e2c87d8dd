"""What is claimed, each in words around the figures of a recorded JSON; nothing here is measured or typed in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks._growth_fit import number

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of the tables.

    Attributes:
        what: was done.
        ours: what goat-ray took or gave.
        theirs: the same of what it is compared with.
        ratio: of the two, the larger over the smaller.
        bound: what keeps it from being faster.
    """

    what: str
    ours: str
    theirs: str = ""
    ratio: str = ""
    bound: str = ""


def real_cohort(r: Record) -> Claim:
    """Whole cases of real scans."""
    seconds = [case["seconds"] for case in r["cases"]]
    predict = [case["predict"] for case in seconds]
    read, finish = ([case[stage] for case in seconds] for stage in ("read", "finish"))
    return Claim(
        f"{_number(len(seconds))} real scans (240×240×155 and 182×218×182) through the seven embedded members",
        f"predict median {median(predict):.0f} s a case ({min(predict):.0f}–{max(predict):.0f}), read "
        f"{median(read):.1f} s, finish with scoring and thumbnail {median(finish):.1f} s; largest process "
        f"{r['peak_worker_mb'] / 1000:.1f} GB",
        bound="the networks' convolutions",
    )


def embedded_quality(r: Record) -> Claim:
    """Dice of the embedded ensemble."""
    dice = r["dice"]
    means = ", ".join(f"{region} {dice[region]['mean']:.3f}" for region in ("WT", "TC", "ET"))
    return Claim(
        f"embedded ensemble on {dice['WT']['n']} held-back phantoms with a tumour",
        f"mean Dice {means}; worst WT {dice['WT']['min']:.3f}",
    )


def cpu_cost(r: Record) -> Claim:
    """A case outside the networks."""
    parts = r["summary"].values()
    typical = {stage: max(part[stage]["all"]["median"] for part in parts) for stage in ("read", "finish", "commit")}
    most = {stage: max(part[stage]["all"]["max"] for part in parts) for stage in ("read", "finish", "commit")}
    gunzip = max(part["read"]["gunzip and parse"]["median"] for part in parts)
    return Claim(
        "a 240×240×155 case outside the networks, without a reference, one thread",
        f"reading, checks, crop, z-score and grey volume {typical['read']:.2f} CPU-s (at most {most['read']:.2f} of "
        f"{sum(part['cases'] for part in parts)} real scans and phantoms); postprocessing, label file, thumbnail and "
        f"commit {typical['finish'] + typical['commit']:.2f} CPU-s (at most {most['finish'] + most['commit']:.2f})",
        bound=f"memory passes; gunzip alone is {gunzip:.2f} CPU-s",
    )


def postprocess_speed(r: Record) -> Claim:
    """RAP against a mask per component."""
    row = max(r["rows"], key=lambda row: row["components"])
    ours, theirs = row["goat_ray_s"]["median"], row["per_component_s"]["median"]
    voxels = [f"{one['ns_per_voxel']:.1f} ns a voxel of {one['voxels'] / 1e6:.0f} million" for one in r["growth"]]
    return Claim(
        f"postprocessing of a {_size(r['shape'])} map with {row['components']:,} components",
        f"{ours:.3f} CPU-s",
        f"{theirs:.1f} CPU-s of one mask per component",
        f"{theirs / ours:.0f}×",
        f"two passes of labelling, and memory: {', '.join(voxels)}",
    )


def metrics_speed(r: Record) -> Claim:
    """Scoring."""
    plain, defects = r["without_defect_columns"], r["with_defect_columns"]
    medians, worst = plain["median_cpu_s"], plain["worst_cpu_s"]
    return Claim(
        "scoring a 240×240×155 case with 9 to 139 lesions, reading included, one thread",
        f"`brats2023-*`: median {medians['brats2023, official regions']:.2f} CPU-s, worst {worst['brats2023']:.2f}; "
        f"`goat2025-*`: {medians['goat2025, official regions']:.2f} and {worst['goat2025']:.2f}; at most "
        f"{plain['peak_rss_mb']:.0f} MB. The organisers' wrong whole-volume columns on top: at most "
        f"{defects['worst_cpu_s']:.1f} CPU-s, {defects['peak_rss_mb']:.0f} MB",
        bound="surface distances and labelling, one core",
    )


def evaluate_cohort(r: Record) -> Claim:
    """A cohort that is scored."""
    memory = r["driver_rss_mb"]
    return Claim(
        f"`evaluate` on {r['cases']:,} small cases",
        f"{r['ms_per_case_after_that']:.0f} ms a case after {r['seconds_to_first_commit']:.0f} s of start-up; driver's "
        f"memory {memory['at_10_percent']:.0f} MB after a tenth, {memory['at_99_percent']:.0f} MB at the end",
        bound="scoring on two cores",
    )


def chaos(r: Record) -> Claim:
    """Disturbances."""
    cases = r["cases"]
    differing = len(r["objects_that_differ"]) or "none"
    again = len(r["predicted_again_without_a_kill_in_between"]) or "no"
    return Claim(
        f"{sum(cases.values())} small cases on S3 behind a proxy that breaks a tenth of all exchanges; "
        f"{r['worker_kills']} workers, {len(r['node_kills_at_commits'])} node and the driver "
        f"({len(r['driver_kills_at_commits'])} times) killed",
        f"all {r['counts']['ok']} healthy cases committed, the {cases['corrupt']} corrupt ones and the deadly one "
        f"failed; {r['objects_compared']} labels, commits, errors and tables, {differing} of which differs from an "
        f"undisturbed run; {again} case predicted again without a kill in between",
    )


def resume(r: Record) -> Claim:
    """A run that is complete."""
    wall, cpu = ([run[unit] for run in r["resumes"]] for unit in ("wall_s", "cpu_s"))
    return Claim(
        f"a finished run of {r['cases']:,} cases, called again",
        f"nothing to do: {min(cpu):.0f} to {max(cpu):.0f} CPU-s, {min(wall):.0f} to {max(wall):.0f} s; "
        f"{max(run['peak_mb'] for run in r['resumes']):.0f} MB; with `--verify` "
        f"{r['resume_with_verify']['cpu_s']:.0f} CPU-s",
        bound=f"decoding of commits, {1000 * min(cpu) / r['cases']:.1f} CPU-ms each",
    )


def fuzz(r: Record) -> Claim:
    """Hostile bytes."""
    return Claim(
        f"images, headers, manifests, YAML and run objects, changed at random {r['mutations']:,} times",
        f"{r['findings'] or 'no'} wrong answer or unexpected error; no call above "
        f"{max(row['worst_s'] for row in r['rows']):.1f} CPU-s or {max(row['worst_mb'] for row in r['rows']):.0f} MB",
    )


def report_scale(r: Record) -> Claim:
    """A large report."""
    return Claim(
        f"`report` over {r['cases']:,} cases of {r['sites']} sites, five regions, {r['lesions']:,} lesions",
        f"{r['wall_s']:.0f} s, {r['peak_mb']:.0f} MB, page of {r['html_mb']:.1f} MB",
        bound="statistics in one process",
    )


def pseudo_labels(r: Record) -> Claim:
    """What gates keep."""
    strict, none = r["gates"]["strict"], r["gates"]["none"]
    pairs = ", ".join(
        f"{region} {strict[f'{region}_dice_kept']:.3f} and {strict[f'{region}_dice_refused']:.3f}"
        for region in ("WT", "TC", "ET")
    )
    plain = ", ".join(f"{none[f'{region}_dice_kept']:.3f}" for region in ("WT", "TC", "ET"))
    return Claim(
        f"pseudo-labels of {none['kept']} small phantoms, a third of them spoilt, by {len(r['teachers'])} embedded "
        f"teachers; mean Dice of what `strict` keeps ({strict['kept']}) and refuses ({none['kept'] - strict['kept']})",
        f"{pairs}; without gates {plain}. nnU-Net's integrity check passes, its planner preprocesses all "
        f"{r['nnunet']['preprocessed_cases']}",
    )


def pseudo_real(r: Record) -> Claim:
    """Real scans."""
    refused = r["refused"]
    agreement = [case["dice_wt"] for case in r["cases"] if "dice_wt" in case]
    return Claim(
        "pseudo-labels of ten real scans and a renamed copy of a labelled one, `strict`",
        f"{refused['labelled_id']} known by id, {refused['labelled_scan']} by its scan, {refused['gate']} refused by "
        f"gates (WT agreement {min(agreement):.2f} to {max(agreement):.2f}), as teachers deserve that know phantoms "
        "only",
    )


def pseudo_scale(r: Record) -> Claim:
    """Many pseudo-labels."""
    memory, sweeps = r["memory_mb"], [sweep["wall_s"] for sweep in r["sweep"]]
    return Claim(
        f"pseudo-labels of {r['cases']:,} small cases, stub teachers, one process",
        f"{r['ms_per_case']:.0f} ms a case; memory {memory['after_a_tenth']:.0f} MB after a tenth and "
        f"{memory['after_all']:.0f} MB after all; called again {r['again']['elapsed_s']:.1f} s; sweep of all gates "
        f"{min(sweeps):.1f} to {max(sweeps):.1f} s",
    )


def import_real_plans(r: Record) -> Claim:
    """Networks of full size."""
    equal = "equal" if r["all_equal_nnunet"] else "NOT equal"
    return Claim(
        f"import, strict load and one pass of {r['n']} full-size networks from published and generated plans",
        f"logits {equal} to nnU-Net's own; load at most {r['max_load_s']:.3f} s",
    )


def nnunet_parity(r: Record) -> Claim:
    """Bit parity."""
    differing = max(twin["nnunet"]["differing_vox"] for twin in r["twins"])
    return Claim(
        f"reduced, fitted twins of {len(r['twins'])} published plans against `nnUNetPredictor`, one real scan",
        f"`nnunet` blending: {differing} voxels differ",
    )


def scale(r: Record) -> Claim:
    """Ten thousand cases."""
    driver, workers = r["driver"], r["workers"]
    memory, gaps = driver["memory_mb"], workers["gap_ms_between_cases"]
    return Claim(
        f"{r['cases']:,} cases with rows of real size through {workers['number']} workers on "
        f"{r['plan']['nodes']} logical nodes, members that sleep {r['plan']['predict_s']:g} s",
        f"driver {memory['after_a_tenth']:.0f} MB after a tenth, {memory['after_all']:.0f} MB after all "
        f"({driver['slope_kb_per_case']:.1f} KB a case), {memory['after_tables']:.0f} MB with the tables; workers busy "
        f"{workers['busy_percent']:.1f} % of the time, {gaps['median']:.0f} ms between two cases (mean "
        f"{gaps['mean']:.0f} ms)",
        bound=f"two cores: {r['cpu_s_per_case']:.2f} CPU-s a case, of which the driver's "
        f"{driver['cpu_ms_per_case']:.0f} ms set the pace of one run",
    )


def scale_estimate(r: Record) -> Claim:
    """On paper."""
    told = []
    for one in r["estimates"]:
        found = one["estimate"]
        told.append(
            f"{one['assumed']['gpu_s']:g} s of GPU a case: {found['hours']:.1f} h, limited by {found['slowest']}; GPUs "
            f"busy {found['gpus_busy_percent']:.0f} %, runs side by side to fill them: "
            f"{found['jobs_that_keep_the_gpus_busy']}"
        )
    return Claim(
        f"**on paper**: {r['cases']:,} cases on {r['gpus']} GPUs, each assumption in the JSON", ". ".join(told)
    )


def growth(r: Record) -> Claim:
    """How costs grow."""
    names = {
        "cohort_cpu": "cases",
        "members": "members",
        "postprocessing": "components (RAP)",
        "scoring": "lesions (scoring)",
        "reading_and_finishing": "voxels (read, finish)",
        "actors": "workers (throughput)",
    }
    told = [
        f"{name} {r['growths'][key]['exponent_of_last_decade']:.2f} "
        f"({number(r['growths'][key]['line']['slope'])} {r['growths'][key]['line']['unit']})"
        for key, name in names.items()
    ]
    return Claim(
        "growth of the cost of a case: exponents over the largest decade, 1 is linear, and slopes "
        "(`benchmarks/results/growth.png`)",
        "; ".join(told),
    )


def cohort_flow(r: Record) -> Claim:
    """The winner's flow."""
    return _flow(r, "embedded members")


def cohort_flow_full_size(r: Record) -> Claim:
    """The same with networks and windows as nnU-Net plans them."""
    return _flow(r, "members of full size, random but for their last layer,")


def _flow(r: Record, members: str) -> Claim:
    labels, units = r["labels"], r["machine"]["vector_units"]
    own_blending = f"with nnU-Net's own blending {labels['nnunet']['differing_vox']}, " if "nnunet" in labels else ""
    ours, theirs, half = (_median_flow(r, name) for name in ("float32", "theirs", "bfloat16"))
    return Claim(
        f"{len(r['members'])} {members} × {r['cases']} case(s) of {_size(r['shape_xyz'])}: `goat-ray predict` "
        "against the published flow of `nnUNetv2_predict` processes and archives of probabilities; "
        f"{len(r['rounds'])} round(s)",
        f"{ours['wall_s']:.0f} s, {ours['cpu_s']:.0f} CPU-s, {_megabytes(ours['written_bytes'])} written; bfloat16 "
        f"{half['wall_s']:.0f} s. {labels['float32']['differing_vox']} voxels differ, {own_blending}in bfloat16 "
        f"{labels['bfloat16']['differing_vox']}",
        f"{theirs['wall_s']:.0f} s, {theirs['cpu_s']:.0f} CPU-s, {_megabytes(theirs['written_bytes'])} written",
        f"{_ratio(r, 'float32 wall')}, bfloat16 {_ratio(r, 'bfloat16 wall')} ({', '.join(units)}); "
        f"{r['ratios']['written']['median']:,.0f}× fewer bytes written, "
        f"{r['ratios']['disk']['median']:,.0f}× less disk",
        "the networks' convolutions, which both sides share",
    )


def _median_flow(r: Record, name: str) -> dict[str, float]:
    flows = [one["flows"][name] for one in r["rounds"]]
    return {key: median(flow[key] for flow in flows) for key in ("wall_s", "cpu_s", "written_bytes")}


def _ratio(r: Record, name: str) -> str:
    found = r["ratios"][name]
    spread = f" ({found['min']:.1f}–{found['max']:.1f})" if found["min"] < found["max"] else ""
    return f"{found['median']:.1f}×{spread}"


def cpu_modes(r: Record) -> Claim:
    """What a CPU could do faster."""
    rows = {row["mode"]: row for row in r["modes"] if "error" not in row}
    plain, default = rows.pop("float32 instance batch 1"), rows.pop("float32 group batch 1, memory kept")
    others = [
        f"{name} {row['cpu_s_per_case']:.1f}"
        + (f" ({row['warm_up_wall_s']:.0f} s to compile)" if row["is_compiled"] else "")
        + (f" ({row['agreement']['differing_vox']} voxels differ)" if row["agreement"]["differing_vox"] else "")
        for name, row in rows.items()
    ]
    windows = [
        f"{row['processes']} × {row['threads']} thread(s) {row['windows_per_minute']:.0f} windows a minute"
        for row in r["workers"]
        if row["wait_policy"] == "passive" and row["interop"] is None
    ]
    return Claim(
        f"networks of {', '.join(r['members'])} on a CPU, {r['cases']} case(s) of {_size(r['shape_xyz'])}: GroupNorm "
        "and memory kept between layers against the network as PyTorch runs it; other forms",
        f"{default['cpu_s_per_case']:.1f} CPU-s, {default['agreement']['differing_vox']} voxels differ. CPU-s of "
        f"others: {'; '.join(others)}. Processes side by side: {', '.join(windows)}",
        f"{plain['cpu_s_per_case']:.1f} CPU-s",
        f"{plain['cpu_s_per_case'] / default['cpu_s_per_case']:.1f}×",
        "convolutions of few channels, which oneDNN pads to 16",
    )


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"


def _size(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _number(count: int) -> str:
    return {10: "ten"}.get(count, str(count))


CLAIMS: tuple[Callable[[Record], Claim], ...] = (
    real_cohort,
    embedded_quality,
    cohort_flow,
    cohort_flow_full_size,
    cpu_modes,
    scale,
    scale_estimate,
    growth,
    cpu_cost,
    postprocess_speed,
    metrics_speed,
    evaluate_cohort,
    chaos,
    resume,
    fuzz,
    report_scale,
    pseudo_labels,
    pseudo_real,
    pseudo_scale,
    import_real_plans,
    nnunet_parity,
)
"""Each is named after the JSON it is told of."""
