"""What is known of one member: the card stored beside its weights, and the same in words for people."""

from reprlib import repr as shortened
from typing import Literal

from pydantic import Field

from goat_ray.config import Settings
from goat_ray.labels import MODALITIES, LabelScheme
from goat_ray.members.plans import Architecture, Preprocessing, Triple, architecture_fault, patch_fault
from goat_ray.members.preprocess import preprocessing_problem

_SMALLEST_WINDOW_MM = 4
CARD_FILE = "member.json"
WEIGHTS_FILE = "weights.safetensors"
TEXT_FILE = "MODEL_CARD.md"

CODE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""A member's code: also the name of its folder, so it can be neither `..` nor hold a separator."""
SHA256_PATTERN = r"^[0-9a-f]{64}$"


class Source(Settings):
    """Where a member was trained, as far as its results folder tells."""

    dataset: str
    training_cases: int | None
    plans: str
    fold: str
    epoch: int | None
    checkpoint: str
    checkpoint_sha256: str = Field(pattern=SHA256_PATTERN)


class MemberCard(Settings):
    """Everything needed to build, feed and read one member's network; the content of `member.json`.

    `patch_size` and `mirroring_axes` follow the network's axes (z, y, x unless the plans transpose).
    `channels` are modalities where the name is known, else the dataset's own names, in input order.
    """

    goat_ray_member: Literal[1] = 1
    code: str = Field(pattern=CODE_PATTERN)
    trainer: str
    configuration: str
    architecture: Architecture
    preprocessing: Preprocessing
    patch_size: Triple
    channels: tuple[str, ...]
    labels: LabelScheme
    mirroring_axes: tuple[int, ...]
    parameters: int
    licence: str | None = None
    limits: str | None = None
    source: Source

    def fault(self) -> str | None:
        """Why this describes no network and no input that could be, or None; foreign cards may say anything."""
        found = architecture_fault(self.architecture) or patch_fault(self.patch_size, self.architecture)
        if found:
            return found
        spec, inputs, outputs = self.preprocessing, len(self.channels), len(self.labels.channels)
        window_mm = [size * step for size, step in zip(self.patch_size, spec.spacing_mm, strict=True)]
        checks = (
            (0 < inputs == len(spec.normalization) == len(spec.use_mask), "not one normalisation for each channel"),
            (0 < outputs <= 256, f"{outputs} outputs"),
            (sorted(spec.transpose) == [0, 1, 2], f"the transpose {shortened(spec.transpose)}"),
            (all(0.01 <= step <= 100 for step in spec.spacing_mm), f"the spacing {shortened(spec.spacing_mm)} mm"),
            (min(window_mm) >= _SMALLEST_WINDOW_MM, f"windows of {shortened(window_mm)} mm"),
            ({0, 1, 2}.issuperset(self.mirroring_axes), f"the mirroring axes {shortened(self.mirroring_axes)}"),
            (0 < self.parameters < 10**12, f"{shortened(self.parameters)} parameters"),
        )
        return next((f"it has {fault}" for holds, fault in checks if not holds), None)

    def problem(self) -> str | None:
        """Why no ensemble can run this member on our cases, or None when one can."""
        if sorted(self.channels) != sorted(MODALITIES):
            return (
                f"its channels are {', '.join(self.channels)}, expected each of {', '.join(MODALITIES)} once; "
                "where only names differ, import it again with all of them in this order (--channels)"
            )
        return self.labels.problem() or preprocessing_problem(self.preprocessing)


def card_text(card: MemberCard, weights_sha256: str) -> str:
    """The model card of a member, as Markdown."""
    source, architecture = card.source, card.architecture
    cases = "an unknown number of" if source.training_cases is None else source.training_cases
    patch = "×".join(map(str, card.patch_size))
    spacing = "×".join(f"{step:g}" for step in card.preprocessing.spacing_mm)
    facts = {
        "Network": f"{architecture.family}, {card.parameters:,} parameters, features "
        f"{', '.join(map(str, architecture.features))}",
        "Input": f"{', '.join(card.channels)} (in this order), patch {patch} voxels at {spacing} mm",
        "Output": f"{card.labels.kind}: {', '.join(card.labels.channels)} (in this order)",
        "Trained by": f"{card.trainer}, plans {source.plans}, configuration {card.configuration}, fold {source.fold}",
        "Training data": f"{source.dataset}, {cases} cases as its dataset.json says; not checked here",
        "Converted from": f"{source.checkpoint}, sha256 {source.checkpoint_sha256}",
        "Weights": f"{WEIGHTS_FILE}, sha256 {weights_sha256}",
        "Licence": card.licence or "unknown; ask whoever trained it before passing it on",
        "Intended use": "research on multi-modal brain-tumour MRI; not a medical device",
        "Limits": card.limits or "accuracy was not measured by the import; evaluate it on your own data",
        "Can be run": "no: " + problem if (problem := card.problem()) else "yes",
    }
    return f"# {card.code}\n\n" + "".join(f"- **{name}**: {fact}\n" for name, fact in facts.items())
