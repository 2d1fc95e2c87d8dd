"""Where nnU-Net v2 keeps trained models, and what the members made of them are called."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from goat_ray.errors import EnsembleError
from goat_ray.members.cards import CODE_PATTERN
from goat_ray.members.plans import Plans, parse_plans


@dataclass(frozen=True, slots=True)
class ImportSource:
    """A results folder, or one above several; `code` names its member instead of the default."""

    path: Path
    code: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ImportSource":
        """`CODE=path` or just a path."""
        code, equals, path = text.partition("=")
        if equals and "/" not in code and not Path(text).exists():
            return cls(Path(path), code)
        return cls(Path(text))


@dataclass(frozen=True, slots=True)
class Trained:
    """One fold of one results folder, and the code of the member it becomes."""

    code: str
    folder: Path
    fold: str
    checkpoint: Path
    plans: Plans
    dataset: Mapping[str, Any]
    dataset_name: str


def find_trained(
    sources: Sequence[ImportSource], checkpoint: str = "final", folds: Sequence[str] | None = None
) -> list[Trained]:
    """Every trained fold in the sources, in their order and sorted within each, under a code of its own.

    Args:
        sources: folders `<trainer>__<plans>__<configuration>`, or folders anywhere above several.
        checkpoint: `final` or `best`.
        folds: numbers or `all`; when None, `all` where it exists and else every numbered fold.

    Raises:
        EnsembleError: nothing is there, something is incomplete or unsupported, or two would share a code.
    """
    trained = [
        one
        for source in sources
        for folder in _model_folders(source)
        for one in _folds_of(folder, source.code, checkpoint, folds)
    ]
    if not trained:
        raise EnsembleError("nothing to import: name at least one nnU-Net results folder")
    return _with_unique_codes(trained)


def _model_folders(source: ImportSource) -> list[Path]:
    path, code = source.path.resolve(), source.code
    if code is not None and not re.fullmatch(CODE_PATTERN, code):
        raise EnsembleError(f"the code {code!r}: expected letters, digits, '.', '_' and '-', no '.' first")
    found = [path / "plans.json"] if (path / "plans.json").is_file() else sorted(path.rglob("plans.json"))
    folders = [plans.parent for plans in found if plans.parent.name.count("__") == 2]
    if not folders:
        raise EnsembleError(
            f"no trained model in {source.path}, expected a folder <trainer>__<plans>__<configuration> with "
            "plans.json, dataset.json and fold_*"
        )
    return folders


def _folds_of(folder: Path, code: str | None, checkpoint: str, folds: Sequence[str] | None) -> Iterator[Trained]:
    trainer, _, configuration = folder.name.split("__")
    raw = _read_json(folder / "plans.json", "the network's shape")
    dataset = _read_json(folder / "dataset.json", "the names of channels and labels")
    plans, dataset_name = parse_plans(raw, configuration), str(raw.get("dataset_name", "unknown"))
    for fold in _chosen_folds(folder, folds):
        yield Trained(
            code=code or _default_code(trainer, plans, dataset_name),
            folder=folder,
            fold=fold,
            checkpoint=_checkpoint(folder / f"fold_{fold}", checkpoint),
            plans=plans,
            dataset=dataset,
            dataset_name=dataset_name,
        )


def _read_json(path: Path, content: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise EnsembleError(
            f"{path.name} is missing in {path.parent}: it holds {content}; copy it from where it was trained"
        ) from error
    except (OSError, ValueError) as error:
        raise EnsembleError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise EnsembleError(f"{path} holds a {type(values).__name__}, expected an object with {content}")
    return values


def _chosen_folds(folder: Path, folds: Sequence[str] | None) -> Sequence[str]:
    present = sorted(path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir())
    numbered = sorted((fold for fold in present if fold.isdecimal()), key=int)
    chosen = folds or (["all"] if "all" in present else numbered)
    missing = [fold for fold in chosen if fold not in present]
    if missing or not chosen:
        raise EnsembleError(
            f"{folder} has no fold {', '.join(missing) or 'at all'}; there are: {', '.join(present) or 'none'}"
        )
    return chosen


def _checkpoint(folder: Path, which: str) -> Path:
    path = folder / f"checkpoint_{which}.pth"
    if not path.is_file():
        present = ", ".join(sorted(p.name for p in folder.glob("checkpoint_*.pth"))) or "no checkpoint"
        raise EnsembleError(f"{path.name} is missing in {folder}, which holds {present}; see --checkpoint")
    return path


def _default_code(trainer: str, plans: Plans, dataset_name: str) -> str:
    """The winning ensemble's name for such a member; the dataset's id tells apart what has none there."""
    if "umamba" in trainer.lower():
        return "UMamba"
    if plans.architecture.family == "plain_conv":
        return "PlainConv"
    base = "Finetune" if "finetun" in trainer.lower() else "ResNet"
    size = re.search(r"ResEncUNet(XL|L|M)Plans", plans.name)
    return base + size[1] if size else f"{base}-{_dataset_id(dataset_name)}"


def _dataset_id(name: str) -> str:
    number = re.match(r"Dataset(\d+)", name)
    return number[1] if number else re.sub(r"[^A-Za-z0-9._-]", "-", name)


def _with_unique_codes(trained: Sequence[Trained]) -> list[Trained]:
    """Members of one code get what differs between them behind it: the dataset's id, the fold."""
    named = []
    for one in trained:
        same = [other for other in trained if other.code == one.code]
        code = one.code
        if len({other.dataset_name for other in same}) > 1:
            code += f"-{_dataset_id(one.dataset_name)}"
        if len({other.fold for other in same}) > 1:
            code += f"-fold{one.fold}"
        named.append(replace(one, code=code))
    code, count = Counter(one.code for one in named).most_common(1)[0]
    if count > 1:
        folders = ", ".join(str(one.folder) for one in named if one.code == code)
        raise EnsembleError(f"{folders} would all be called {code}; name them yourself (CODE=folder)")
    return named
