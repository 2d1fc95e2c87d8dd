"""Every reader of foreign bytes that is fuzzed, by name."""

from pathlib import Path

from tests.fuzz.documents import document_targets
from tests.fuzz.engine import Target
from tests.fuzz.images import image_targets
from tests.fuzz.runs import run_targets


def make_targets(folder: Path) -> dict[str, Target]:
    """All targets; they write below `folder`, one mutation over the other."""
    images, documents, runs = (
        image_targets(folder / "case"),
        document_targets(folder / "docs"),
        run_targets(folder / "run"),
    )
    return {target.name: target for target in (*images, *documents, *runs)}
