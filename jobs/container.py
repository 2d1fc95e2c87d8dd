"""What the image does: label every case of /input into /output, or run the command that it is given instead.

Options go to `goat-ray predict`, and exit codes are its own. Only label maps reach /output, each of them whole: those
of cases that ended well. The run folder stays on /scratch, from where the next call goes on if that is a volume.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from goat_ray import console
from goat_ray.cli import main
from goat_ray.errors import GoatRayError, StorageError
from goat_ray.running import BAD_USAGE, RUN_FAILED
from goat_ray.runs import read_run
from goat_ray.storage import RunStore
from goat_ray.tables import read_table


def place(name: str) -> str:
    """Where the container's input, output, ensemble or scratch is; elsewhere if GOAT_RAY_<NAME> says so."""
    return os.environ.get(f"GOAT_RAY_{name.upper()}", f"/{name}")


def segment(options: list[str]) -> int:
    """Predict /input with /ensemble and hand the label maps out; returns the exit code."""
    ensemble, output, run = Path(place("ensemble")), RunStore(place("output")), f"{place('scratch')}/run"
    manifest = ensemble / "ensemble.yaml" if ensemble.is_dir() else ensemble
    if not manifest.is_file():
        console.show_error(f"no ensemble at {manifest}: mount the folder that `goat-ray ensemble import` wrote there")
        return BAD_USAGE
    try:
        output.write(".writable", b"")
        output.delete(".writable")
    except StorageError as error:
        console.show_error(f'{error}; run the container as the folder\'s owner: --user "$(id -u):$(id -g)"')
        return BAD_USAGE
    quick = ["--set", "thumbnails=false"]
    code = run_cli(["predict", place("input"), "--ensemble", str(manifest), "--out", run, *quick, *options])
    return code if code == BAD_USAGE else delivered(RunStore(run), output, code)


def run_cli(words: list[str]) -> int:
    """The exit code of a `goat-ray` command, carried out in this process."""
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else RUN_FAILED
    return 0


def delivered(run: RunStore, output: RunStore, code: int) -> int:
    """Hand out the labels of a run that ended with `code`, and take back those of cases that failed now."""
    try:
        if read_run(run)["state"] == "running":  # it broke, and its tables are not of now
            return code
        for case in read_table(run, "cases", ("case_id", "status", "label_key")).to_pylist():
            key = f"{case['case_id']}.nii.gz"
            if case["status"] == "ok":
                output.write(key, run.read(case["label_key"]))
            else:
                with suppress(StorageError):  # such as of an id that could lead out of the folder
                    output.delete(key)
    except GoatRayError as error:
        console.show_error(f"label maps could not be handed out: {error}")
        return RUN_FAILED
    return code


if __name__ == "__main__":
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell is wanted
    sys.exit(segment(sys.argv[1:]))
