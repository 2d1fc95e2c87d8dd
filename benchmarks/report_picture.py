"""The README's picture: what the report shows of three phantoms, predicted by the embedded ensemble.

Phantoms only: pictures of real scans never enter the repository.
"""

import io
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks._record import RESULTS
from goat_ray.config import RunConfig
from goat_ray.demo.cohort import DEMO_CASES, EMBEDDED_ENSEMBLE, write_demo_cohort
from goat_ray.storage import RunStore
from tests.inline import predict_inline

SHOWN = DEMO_CASES[:3]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        cohort = Path(name) / "cohort"
        write_demo_cohort(cohort, cases=SHOWN)
        config = RunConfig(cohort=str(cohort), ensemble=str(EMBEDDED_ENSEMBLE), out=f"{name}/run")
        predict_inline(config)
        store = RunStore(f"{name}/run")
        pictures = [Image.open(io.BytesIO(store.read(key))).convert("RGB") for key in store.list("thumbnails")]
    width, height = sum(picture.width for picture in pictures), max(picture.height for picture in pictures)
    montage = Image.new("RGB", (width, height))
    left = 0
    for picture in pictures:
        montage.paste(picture, (left, 0))
        left += picture.width
    path = RESULTS / "thumbnails.png"
    montage.quantize(64).save(path, optimize=True)
    print(f"wrote {path.name}, {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
