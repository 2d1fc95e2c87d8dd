"""Tables: explicit schemas, one row for every case, the same bytes for the same facts."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from goat_ray.cases import FailedCase
from goat_ray.commits import Ledger
from goat_ray.errors import Category, Failure
from goat_ray.tables import SCHEMAS, build_tables, encode_table
from tests.test_commits import commit_of

FAILED = FailedCase(
    "case-0", Failure(Category.EMPTY_IMAGE, "t1c is zero", "export it again", "read", 1), "south", "MEN"
)


def ledger(*case_ids: str) -> Ledger:
    return Ledger("run", {case_id: commit_of(case_id, b"x") for case_id in case_ids}, {"case-0": FAILED})


def test_every_case_has_one_row_in_id_order_whether_it_failed_or_not() -> None:
    cases = build_tables(ledger("case-2", "case-1"))["cases"]
    assert cases.column("case_id").to_pylist() == ["case-0", "case-1", "case-2"]
    assert cases.column("status").to_pylist() == ["failed", "ok", "ok"]
    assert cases.column("failure_category").to_pylist() == ["empty_image", None, None]
    assert cases.column("et_threshold").to_pylist() == [None, 1.5, 1.5]
    assert cases.column("site").to_pylist() == ["south", "north", "north"]


def test_failures_carry_message_and_hint() -> None:
    (row,) = build_tables(ledger())["failures"].to_pylist()
    assert row == {
        "run_id": "run",
        "case_id": "case-0",
        "site": "south",
        "cohort": "MEN",
        "stage": "read",
        "category": "empty_image",
        "message": "t1c is zero",
        "hint": "export it again",
        "attempts": 1,
    }


def test_a_run_without_any_lesion_still_has_tables_with_full_schemas() -> None:
    tables = build_tables(Ledger("run", {}, {}))
    assert {name: table.schema.remove_metadata() for name, table in tables.items()} == SCHEMAS
    assert all(table.num_rows == 0 for table in tables.values())


def test_equal_facts_give_equal_bytes_whatever_the_order_of_arrival() -> None:
    one, other = build_tables(ledger("case-1", "case-2")), build_tables(ledger("case-2", "case-1"))
    assert [encode_table(table) for table in one.values()] == [encode_table(table) for table in other.values()]


def test_tables_read_back_as_they_were_written() -> None:
    for name, table in build_tables(ledger("case-1")).items():
        back = pq.read_table(io.BytesIO(encode_table(table)))
        assert back.equals(table), name
        assert back.schema.metadata[b"goat_ray.run_id"] == b"run"


def test_every_row_key_is_a_column() -> None:
    for name, table in build_tables(ledger("case-1")).items():
        assert isinstance(table, pa.Table), name
        assert table.column_names[:4] == ["run_id", "case_id", "site", "cohort"], name
