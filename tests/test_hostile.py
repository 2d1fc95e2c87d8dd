"""Input that means harm: files that unpack without end, names in headers, ids and links that lead elsewhere."""

import gzip
import json
import struct
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from goat_ray.cases import FailedCase, discover
from goat_ray.commits import commit_key, error_key, label_key, timings_key, write_commit, write_failure
from goat_ray.errors import CaseError, Category, Failure, StorageError
from goat_ray.imaging.nifti import decode_labels, encode_labels
from goat_ray.imaging.reading import load_labels
from goat_ray.labels import MODALITIES
from goat_ray.ledger import read_ledger
from goat_ray.storage import RunStore
from tests.test_commits import commit_of

SHAPE = (6, 5, 4)


def nifti(kind: Any = nib.Nifti1Image, dtype: str = "uint8", **fields: object) -> bytes:
    """An uncompressed image of ones; `fields` are set, unchecked, in its header."""
    image = kind(np.ones(SHAPE, dtype), np.diag([1.0, 1.5, 2.0, 1.0]), dtype=dtype)
    raw: bytes = image.to_bytes()
    header = kind.header_class(raw[: kind.header_class.sizeof_hdr], check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + raw[header.sizeof_hdr :]


# --- files that unpack to far more than they are


def endless_zeros(start: bytes, packed_bytes: int) -> bytes:
    """A gzip file that begins with `start` and goes on with a thousand zeros for each of its own bytes."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * (packed_bytes // len(block))


PLAIN = nifti()
HUGE: dict[str, Any] = {"dim": [3, 2048, 2048, 2048, 1, 1, 1, 1], "datatype": 64}
FAR = {"vox_offset": 2**24}
BOMBS: dict[str, Callable[[], bytes]] = {
    "1 kB that claims 68 GB": lambda: gzip.compress(nifti(**HUGE)),
    "1 kB of zeros that claims 68 GB": lambda: gzip.compress(nifti(**HUGE) + bytes(900_000)),
    "a plain file that claims 68 GB": lambda: nifti(**HUGE),
    "more voxels than 64 bits count": lambda: gzip.compress(nifti(nib.Nifti2Image, dim=[3, *[2**40] * 3, *[1] * 4])),
    "4 GB of zeros behind a small image": lambda: endless_zeros(PLAIN, 2**22),
    "4 GB of zeros in place of a header": lambda: endless_zeros(b"", 2**22),
    "4 GB of zeros behind a header that is cut": lambda: endless_zeros(PLAIN[:300], 2**22),
    "gzip in gzip": lambda: gzip.compress(endless_zeros(PLAIN, 2**22)),
    "empty members before the image": lambda: gzip.compress(b"") * 100_000 + gzip.compress(PLAIN),
    "empty members behind the image": lambda: gzip.compress(PLAIN) + gzip.compress(b"") * 100_000,
    "a member for each byte": lambda: b"".join(gzip.compress(bytes([byte])) for byte in PLAIN),
    "voxels at byte 16777216": lambda: gzip.compress(nifti(**FAR)[:352].ljust(2**24, b"\0") + b"\1" * 120),
    "voxels beyond the file": lambda: gzip.compress(nifti(**FAR)),
    "voxels at the end of all addresses": lambda: gzip.compress(nifti(nib.Nifti2Image, vox_offset=2**63 - 16)),
    "an extension of 2 GB": lambda: gzip.compress(PLAIN[:348] + struct.pack("<4B2i", 1, 0, 0, 0, 2**31 - 16, 6)),
    "a file name of 4 MB in the gzip header": lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 2**22,
}


HONEST = "an image of 134 MB, which shows that memory is counted"

MEASURE = """
import json, sys
from pathlib import Path
from goat_ray.cases import Case
from goat_ray.errors import CaseError
from goat_ray.imaging.nifti import decode_image, decode_labels, peek_header
from goat_ray.imaging.reading import load_case
from goat_ray.labels import MODALITIES

folder = Path(sys.argv[1])
case = Case("a", {m: str(folder / m) for m in MODALITIES})

def load(data, name, **options):
    Path(case.images["t1n"]).write_bytes(data)
    load_case(case, **options)

def outcome(read, data):
    try:
        read(data, "a", max_voxels=2**40)
    except CaseError as error:
        return str(error.category)
    return "read"

peek = lambda data, *rest, **limits: peek_header(data, len(data), *rest, **limits)
readers = (decode_image, decode_labels, peek, load)
intact = Path(case.images["t1n"]).read_bytes()
# Not ru_maxrss, which starts with what the parent had.
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(json.dumps([outcome(read, intact) for read in readers]))
start = peak()
for path in sorted(folder.glob("bomb*")):
    data = path.read_bytes()
    print(json.dumps([[outcome(read, data) for read in readers], (peak() - start) / 1024]))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], float]]:
    """What became of each bomb in each reader, and by how many MB the process had to grow for them."""
    folder = tmp_path_factory.mktemp("bombs")
    for modality in MODALITIES:
        (folder / modality).write_bytes(gzip.compress(nifti()))
    files = {name: make() for name, make in BOMBS.items()}
    files[HONEST] = endless_zeros(nifti(dim=[3, 512, 512, 512, 1, 1, 1, 1]), 2**18)
    for number, data in enumerate(files.values()):
        (folder / f"bomb{number:02}").write_bytes(data)
    command = [sys.executable, "-W", "error", "-c", MEASURE, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    intact, *found = map(json.loads, run.stdout.splitlines())
    assert intact == ["read"] * 4
    return dict(zip(files, found, strict=True))


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak memory in /proc")


@LINUX
@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_unpacks_without_end_costs_less_than_50_mb(measured, name):
    outcomes, megabytes = measured[name]
    assert set(outcomes) <= {"read", "unreadable_file", "too_large"}
    assert megabytes < 50


@LINUX
def test_what_lies_before_the_bomb_is_read(measured):
    read = {name for name, (outcomes, _) in measured.items() if set(outcomes) == {"read"}}
    assert {"4 GB of zeros behind a small image", "voxels at byte 16777216", "a member for each byte"} <= read
    assert "unreadable_file" in measured["1 kB that claims 68 GB"][0]
    assert measured[HONEST][1] > 100


# --- what a header tells of the patient stays there

NAME = b"PATIENT^NAME"
TEXTS = dict.fromkeys(("descrip", "intent_name", "db_name", "aux_file", "data_type"), NAME[:10])


def named(dtype: str = "uint8", **fields: object) -> bytes:
    """An image whose every text, and an extension, is a patient's name."""
    extension = struct.pack("<4B2i", 1, 0, 0, 0, 64, 6) + NAME.ljust(56, b"\0")
    raw = nifti(dtype=dtype, **{**TEXTS, "vox_offset": 416, **fields})
    return raw[:348] + extension + raw[352:]


def packed(raw: bytes) -> bytes:
    """Compressed, with the name in gzip's own header too."""
    plain = gzip.compress(raw, mtime=0)
    return b"\x1f\x8b\x08\x18" + plain[4:10] + NAME + b"\0" + NAME + b"\0" + plain[10:]


TEXT_AS_FLOAT = struct.unpack("<f", NAME[:4])[0]
BROKEN_FIELDS: dict[str, dict[str, Any]] = {
    "negative side": {"dim": [3, -6, 5, 4, 1, 1, 1, 1]},
    "no sides": {"dim": [0] * 8},
    "four dimensions": {"dim": [4, 6, 5, 2, 2, 1, 1, 1]},
    "too many voxels": {"dim": [3, 2000, 2000, 2000, 1, 1, 1, 1]},
    "long side": {"dim": [3, 30000, 1, 1, 1, 1, 1, 1]},
    "unknown type": {"datatype": 1234},
    "colour": {"datatype": 128},
    "complex": {"datatype": 32},
    "text as offset": {"vox_offset": TEXT_AS_FLOAT},
    "text beside an infinite slope": {"scl_slope": np.inf, "scl_inter": TEXT_AS_FLOAT},
    "text as slope": {"scl_slope": TEXT_AS_FLOAT},
    "text as magic": {"magic": NAME[:4]},
    "half of a pair": {"magic": b"ni1"},
    "no place": {"srow_x": [0, 0, 0, 0]},
    "infinite place": {"srow_y": [np.inf, 0, 0, 0]},
}
WHOLE, WHOLE_PACKED = named(), packed(named())
BROKEN = {
    **{fault: packed(named(**fields)) for fault, fields in BROKEN_FIELDS.items()},
    "text as labels": WHOLE[:416] + NAME + WHOLE[428:-20],
    "negative label": named(scl_slope=-1.0),
    "cut": WHOLE[:400],
    "cut header": WHOLE[:200],
    "cut gzip": WHOLE_PACKED[:-20],
    "wrong checksum": WHOLE_PACKED[:-8] + bytes(8),
    "cut gzip header": WHOLE_PACKED[:20],
    "text": NAME * 100,
    "compressed text": gzip.compress(NAME * 100),
    "text before the header": NAME + WHOLE,
    "damaged stream": WHOLE_PACKED[:60] + NAME + WHOLE_PACKED[72:],
}


def test_text_in_an_input_never_reaches_the_label_file():
    for data in (named(), packed(named())):
        labels, grid = decode_labels(data, "a")
        written = encode_labels(labels, grid)
        assert b"PATIENT" in (data if data[:2] != b"\x1f\x8b" else gzip.decompress(data))
        assert b"PATIENT" not in written + gzip.decompress(written)


@pytest.mark.parametrize("fault", BROKEN)
def test_text_in_an_input_never_reaches_a_message(fault: str, tmp_path: Path):
    path = tmp_path / "case-1-seg.nii.gz"
    path.write_bytes(BROKEN[fault])
    readers: tuple[Callable[[], object], ...] = (
        lambda: decode_labels(path.read_bytes(), "case-1-seg.nii.gz"),
        lambda: load_labels(str(path), "reference", Category.MISSING_REFERENCE),
    )
    for read in readers:
        with pytest.raises(CaseError) as caught:
            read()
        told = f"{caught.value} {caught.value.hint}" + "".join(traceback.format_exception_only(caught.value))
        assert "PATIENT" not in told
        assert "NAME" not in told


# --- ids and folders that lead elsewhere

IDS = [
    *(
        "..",
        ".",
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b",
        "a/b",
        "%2e%2e%2f",
        "..%2fa",
        "a\\..\\b",
        "C:\\a",
        "a\0b",
    ),
    *(
        "a\nb",
        "a\r",
        "a\t",
        " a",
        "a ",
        "",
        ".hidden",
        "-rf",
        "_a",
        "x" * 129,
        "x" * 300,
        "é",
        "ＢraTS",
        "а-1",
        "a\u202eb",
    ),
    *(
        "a\u2215b",
        "a\uff0fb",
        "\ufeffa",
        "~",
        "~root",
        "$HOME",
        "a;b",
        "a|b",
        "a*",
        "a?",
        "s3://b/k",
        "case:1",
        "\U0001f600",
    ),
]
PLAIN_IDS = ["CON", "nul", "a..b", "a.", "0", "x" * 128, "unsafe-0123456789abcdef", "-".join("abc")]


def write_manifest(path: Path, ids: list[str]) -> str:
    columns = {"case_id": ids, **{modality: [f"{i}.nii.gz" for i in range(len(ids))] for modality in MODALITIES}}
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_an_id_that_is_no_plain_name_becomes_a_failure_row_and_none_is_lost(tmp_path):
    found = discover(write_manifest(tmp_path / "m.parquet", [*IDS, *PLAIN_IDS]))
    assert {case.case_id for case in found.cases} == set(PLAIN_IDS)
    assert {failed.case_id for failed in found.failures} == set(IDS)
    assert {failed.failure.category for failed in found.failures} == {Category.INVALID_ID}
    assert all("\n" not in failed.failure.message and len(failed.failure.message) < 500 for failed in found.failures)


FOLDER_IDS = [name for name in IDS if name.strip(".") and not {"/", "\0"} & {*name} and len(name) < 200]


@pytest.mark.parametrize("case_id", FOLDER_IDS)
def test_a_folder_that_is_no_plain_name_becomes_a_failure_row(tmp_path, case_id):
    for name in ("good", case_id):
        (tmp_path / name).mkdir()
        for modality in MODALITIES:
            (tmp_path / name / f"{name}-{modality}.nii.gz").touch()
    found = discover(str(tmp_path))
    assert [case.case_id for case in found.cases] == ["good"]
    hidden = case_id.startswith(".")
    assert [failed.failure.category for failed in found.failures] == ([] if hidden else [Category.INVALID_ID])


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


FAILURE = Failure(Category.INVALID_ID, "no case id", "rename it", "discover")


def test_whatever_the_id_its_objects_lie_in_the_run_folder_and_are_told_apart(store, tmp_path):
    ids = [*IDS, *PLAIN_IDS]
    for case_id in ids:
        write_failure(store, FailedCase(case_id, FAILURE))
        write_commit(store, commit_of(case_id, b"labels"), {label_key(case_id): b"labels"})
    assert [*tmp_path.iterdir()] == [tmp_path / "run"]
    folders = {path.split("/")[0] for path in everything_below(tmp_path / "run")}
    assert folders <= {"labels", "commits", "errors"}
    for key_of in (label_key, commit_key, error_key, timings_key):
        keys = {key_of(case_id) for case_id in ids}
        assert len(keys) == len(ids)
        assert all(key.isascii() and key.isprintable() and ".." not in key.split("/") for key in keys)
    assert read_ledger(store, "run").commits.keys() == set(ids)


def write_both(store: RunStore) -> None:
    write_failure(store, FailedCase("case-1", FAILURE))
    write_commit(store, commit_of("case-1", b"labels"), {label_key("case-1"): b"labels"})


@pytest.mark.parametrize("where", ["labels", "commits", "errors"])
@pytest.mark.parametrize("depth", ["folder", "file"])
@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_written_through_a_link_that_leads_out_of_the_run_folder(store, tmp_path, where, depth, there):
    key = {"labels": label_key, "commits": commit_key, "errors": error_key}[where]("case-1")
    link = tmp_path / "run" / (where if depth == "folder" else key)
    outside = tmp_path / "outside"
    if there:
        (outside.mkdir if depth == "folder" else lambda: outside.write_text("theirs"))()
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(StorageError, match="through a link"):
        write_both(store)
    assert outside.exists() == there
    assert not (outside.is_file() and outside.read_text() != "theirs")
    assert not (outside.is_dir() and [*outside.iterdir()])


def test_nothing_is_read_through_a_link_that_leads_out_of_the_run_folder(store, tmp_path):
    other = RunStore(str(tmp_path / "other"))
    write_failure(other, FailedCase("case-1", FAILURE))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "errors").symlink_to(tmp_path / "other" / "errors")
    with pytest.raises(StorageError, match="through a link"):
        read_ledger(store, "run")
    (tmp_path / "run" / "errors").unlink()
    link = tmp_path / "run" / error_key("case-1")
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "other" / error_key("case-1"))
    with pytest.raises(StorageError, match="through a link"):
        read_ledger(store, "run")
