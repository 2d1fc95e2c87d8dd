"""Tables: explicit schemas, one row for every case, the same bytes for the same facts."""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from goat_ray import tables
from goat_ray.cases import FailedCase
from goat_ray.commits import Timings, commit_key, label_key, timings_key, write_commit, write_failure, write_timings
from goat_ray.errors import Category, Failure, GoatRayError
from goat_ray.ledger import Ledger, read_ledger
from goat_ray.storage import RunStore
from goat_ray.tables import (
    RUN_SCHEMA,
    SCHEMAS,
    read_table,
    table_key,
    tables_are_there,
    write_run_table,
    write_tables,
)
from tests.test_commits import commit_of

FAILED = FailedCase(
    "case-0", Failure(Category.EMPTY_IMAGE, "t1c is zero", "export it again", "read", 1), "south", "MEN"
)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


def fill(store: RunStore, *case_ids: str) -> Ledger:
    for case_id in case_ids:
        write_commit(store, commit_of(case_id, b"x"), {label_key(case_id): b"x"})
        write_timings(store, case_id, Timings({"read": 0.5}, {}))
    write_failure(store, FAILED)
    ledger = read_ledger(store, "run")
    write_tables(store, ledger)
    return ledger


def test_every_case_has_one_row_in_id_order_whether_it_failed_or_not(store: RunStore) -> None:
    fill(store, "case-2", "case-1")
    cases = read_table(store, "cases")
    assert cases.column("case_id").to_pylist() == ["case-0", "case-1", "case-2"]
    assert cases.column("status").to_pylist() == ["failed", "ok", "ok"]
    assert cases.column("failure_category").to_pylist() == ["empty_image", None, None]
    assert cases.column("et_threshold").to_pylist() == [None, 1.5, 1.5]
    assert cases.column("site").to_pylist() == ["south", "north", "north"]


def test_failures_carry_message_and_hint(store: RunStore) -> None:
    fill(store)
    (row,) = read_table(store, "failures").to_pylist()
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


def test_a_run_without_any_case_still_has_tables_with_full_schemas(store: RunStore) -> None:
    write_tables(store, Ledger("run", {}, {}))
    found = {name: read_table(store, name) for name in SCHEMAS}
    assert {name: table.schema.remove_metadata() for name, table in found.items()} == SCHEMAS
    assert all(table.num_rows == 0 for table in found.values())


def test_equal_facts_give_equal_bytes_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    one, other = RunStore(str(tmp_path / "one")), RunStore(str(tmp_path / "other"))
    fill(one, "case-1", "case-2")
    fill(other, "case-2", "case-1")
    assert [one.read(table_key(name)) for name in SCHEMAS] == [other.read(table_key(name)) for name in SCHEMAS]


def test_chunks_lose_and_repeat_nothing(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = fill(store, *(f"case-{number}" for number in range(1, 8)))
    whole = {name: read_table(store, name) for name in SCHEMAS}
    monkeypatch.setattr(tables, "_CASES_AT_ONCE", 3)
    write_tables(store, ledger)
    assert pq.ParquetFile(Path(store.root) / table_key("cases")).num_row_groups == 3
    assert {name: read_table(store, name) for name in SCHEMAS} == whole


def test_tables_are_there_when_none_is_missing(store: RunStore) -> None:
    fill(store, "case-1")
    assert tables_are_there(store)
    store.delete(table_key("lesions"))
    assert not tables_are_there(store)


def test_a_case_whose_timings_were_lost_keeps_its_other_rows(store: RunStore) -> None:
    ledger = fill(store, "case-1", "case-2")
    store.delete(timings_key("case-1"))
    write_tables(store, ledger)
    assert read_table(store, "timings").column("case_id").to_pylist() == ["case-2"]
    assert read_table(store, "regions").column("case_id").to_pylist() == ["case-1", "case-2"]


@pytest.mark.parametrize(
    "rows",
    [
        {"cases": []},
        {"cases": [{"members": 3}]},
        {"cases": [{}], "regions": [{"region": ["ET"]}]},
        {"cases": [{}], "nonsense": [{}]},
        {"cases": [{}], "lesions": [3]},
        {"cases": [{}], "regions": {"region": "ET"}},
    ],
)
def test_rows_of_another_form_are_told_with_the_cases_in_question(store: RunStore, rows: dict[str, object]) -> None:
    fill(store, "case-1")
    document = json.loads(store.read(commit_key("case-1")))
    store.write(commit_key("case-1"), json.dumps({**document, "tables": rows}).encode())
    with pytest.raises(GoatRayError, match=r"case-0 to case-1 .* table rows of another form"):
        write_tables(store, read_ledger(store, "run"))


def test_the_metadata_name_the_run_and_the_schema_version(store: RunStore) -> None:
    fill(store, "case-1")
    for name in SCHEMAS:
        metadata: Mapping[bytes, bytes] = read_table(store, name).schema.metadata
        assert metadata[b"goat_ray.run_id"] == b"run"
        assert metadata[b"goat_ray.schema_version"] == str(tables.SCHEMA_VERSION).encode()


def test_every_table_starts_with_the_id_columns() -> None:
    for name, schema in SCHEMAS.items():
        assert schema.names[:4] == ["run_id", "case_id", "site", "cohort"], name


def test_a_failed_case_may_be_given_penalties(store: RunStore) -> None:
    ledger = fill(store, "case-1")
    write_tables(store, ledger, lambda failed: [{"region": "ET", "penalised": True, "lw_dice": 0.0}])
    rows = read_table(store, "regions", ("case_id", "cohort", "penalised", "lw_dice")).to_pylist()
    assert rows[0] == {"case_id": "case-0", "cohort": "MEN", "penalised": True, "lw_dice": 0.0}
    assert [row["case_id"] for row in rows] == ["case-0", "case-1"]


def test_the_run_table_is_one_row(store: RunStore) -> None:
    write_run_table(store, {"run_id": "run", "kind": "evaluate", "n_ok": 3, "wall_s": 1.5})
    table = read_table(store, "run")
    assert table.schema.remove_metadata() == RUN_SCHEMA
    (row,) = table.to_pylist()
    assert (row["kind"], row["n_ok"], row["wall_s"], row["cpu_s"]) == ("evaluate", 3, 1.5, None)
