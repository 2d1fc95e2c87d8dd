"""Who a case belongs to: cases of one patient are not independent."""

import re
from collections.abc import Iterable

PATIENT_PATTERN = r"(.+-\d{4,})-\d{3}"
"""Challenge ids end in a time point: `BraTS-GLI-00001-000` is of `BraTS-GLI-00001`."""


def patients_of(case_ids: Iterable[str], pattern: str = PATIENT_PATTERN) -> list[str]:
    """The patient of each case: the first group of the pattern where it matches the whole id, else the id itself."""
    compiled = re.compile(pattern)
    return [match[1] or case_id if (match := compiled.fullmatch(case_id)) else case_id for case_id in case_ids]
