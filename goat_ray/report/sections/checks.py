"""Cases to check: what looks odd without any reference."""

from collections import Counter

from goat_ray.quality import PUBLISHED_LIMITS
from goat_ray.report.blocks import Cell, Section, Table
from goat_ray.report.data import Cohort, by_site
from goat_ray.report.flags import FAR, FEWEST_ALIKE, Flags, find_flags

_MOST_CASES = 50
_ALL = "all"


def checks(cohort: Cohort) -> Section:
    """How many cases each flag marks, and the cases with most flags."""
    flags = find_flags(cohort)
    limits = "; ".join(flags.heads[limit.sign] for limit in PUBLISHED_LIMITS if limit.sign in flags.heads)
    text = ["A flag needs no reference. It does not say that a case is wrong, but that somebody should look at it."]
    if limits:
        text.append(
            f"Published limits: {limits}. A 2026 BraTS-GoAT entry kept 983 of 1,138 pseudo-labelled cases with them; "
            "for another ensemble or cohort they may be too strict or too lax."
        )
    text += [f"Not judged: {head}, because {reason}." for head, reason in flags.unknown.items()]
    if flags.marks.empty:
        text.append("No case is flagged.")
    return Section("checks", "Cases to check", text, [_by_site(cohort, flags), *_each(flags)])


def most_flagged(flags: Flags) -> list[tuple[str, str]]:
    """Flagged cases, most flags first, and what each is flagged for."""
    told = flags.marks.groupby("case_id")["message"].agg(list)
    return [
        (case_id, "; ".join(told[case_id])) for case_id in sorted(told.index, key=lambda case: (-len(told[case]), case))
    ]


def _by_site(cohort: Cohort, flags: Flags) -> Table:
    marks = dict(by_site(flags.marks, cohort.sites, _ALL))
    rows: list[list[Cell]] = []
    for site, here in by_site(cohort.done, cohort.sites, _ALL):
        counts = Counter(marks[site]["flag"])
        rows.append([site, len(here), marks[site]["case_id"].nunique(), *[counts[flag] for flag in flags.heads]])
    heads = ("site", "cases", "flagged", *flags.heads.values())
    caption = (
        "How many done cases each flag marks; a case may have several. Members' Dice: how far the ensemble's networks "
        "agree, mean over pairs. Probability: mean over the predicted whole tumour (WT). Entropy: how undecided it is "
        "there (nats). Margin: lead of the likeliest label. Volume far from the others': the logarithm of its WT "
        f"volume is more than {FAR:g} robust standard deviations (1.4826 × median absolute deviation) from the "
        "cohort's median. Grid unlike its site's: other size or spacing than more than half of the site's cases, at "
        f"least {FEWEST_ALIKE}, share. All ET removed: postprocessing left nothing of the enhancing tumour that was "
        "predicted."
    )
    return Table("Flags by site", caption, heads, rows, digits=0)


def _each(flags: Flags) -> list[Table]:
    if flags.marks.empty:
        return []
    about = flags.marks.drop_duplicates("case_id").set_index("case_id")["site"]
    counts = Counter(flags.marks["case_id"])
    ordered = most_flagged(flags)
    rows: list[list[Cell]] = [
        [case_id, about[case_id], told, counts[case_id]] for case_id, told in ordered[:_MOST_CASES]
    ]
    rest = len(ordered) - len(rows)
    caption = "Most flags first. Each flag of each case is in the CSV that ends in .flags.csv, beside this file."
    if rest:
        caption = f"The {len(rows)} cases with most flags, of {len(ordered):,}. " + caption.partition(". ")[2]
    return [Table("Flagged cases", caption, ("case", "site", "what is flagged", "flags"), rows, digits=0, keys=3)]
