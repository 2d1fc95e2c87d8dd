"""Who a case belongs to: cases of one patient are not independent."""

import re
from collections.abc import Iterable

_TIMEPOINT = re.compile(r"(.+-\d{4,})-\d{3}")


def patients_of(case_ids: Iterable[str]) -> list[str]:
    """The patient of each case: challenge ids end in a time point (`BraTS-GLI-00001-000`), others are patients."""
    return [match[1] if (match := _TIMEPOINT.fullmatch(case_id)) else case_id for case_id in case_ids]
