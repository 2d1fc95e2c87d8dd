"""Lets `goat_ray` and nnU-Net's predictor be imported where neither is installed whole; imported before either."""

import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


class _Nothing(ModuleType):
    """Stands for a library that is imported and not used; it takes 50 MB."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing


def _name_ourselves() -> None:
    """goat_ray asks for its own version, which a mere checkout has not got."""
    try:
        version("goat-ray")
    except PackageNotFoundError:
        folder = Path(tempfile.mkdtemp()) / "goat_ray-0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: goat-ray\nVersion: 0\n", encoding="utf-8")
        sys.path.append(str(folder.parent))


_name_ourselves()
if find_spec("SimpleITK") is None:
    sys.modules["SimpleITK"] = _Nothing("SimpleITK")
