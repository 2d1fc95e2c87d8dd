"""Writes what is claimed into the READMEs, from the recorded JSON and nothing else.

python -m benchmarks.tables
"""

from collections.abc import Sequence

from benchmarks._claims import CLAIMS
from benchmarks._record import RESULTS, recorded

ROOT = RESULTS.parent.parent
_BEGIN, _END = "<!-- benchmarks.tables writes this -->", "<!-- until here -->"


def main() -> None:
    """Write both tables."""
    for path, table in ((ROOT / "README.md", short_table()), (ROOT / "benchmarks" / "README.md", whole_table())):
        path.write_text(with_table(path.read_text(encoding="utf-8"), table), encoding="utf-8")


def with_table(text: str, table: str) -> str:
    """The text with another table between its marks."""
    before, _, rest = text.partition(_BEGIN)
    _, mark, after = rest.partition(_END)
    if not mark:
        raise ValueError(f"no {_BEGIN} … {_END} in the text")
    return f"{before}{_BEGIN}\n{table}{_END}{after}"


def short_table() -> str:
    """What was done, how it went, which script."""
    rows = []
    for tell in CLAIMS:
        claim = tell(recorded(tell.__name__))
        compared = f"; against {claim.theirs}" if claim.theirs else ""
        rows.append((claim.what, f"{claim.ours}{compared}{_in_brackets(claim.ratio)}", f"`{_script(tell.__name__)}`"))
    return _table(("what", "figure", "script"), rows)


def whole_table() -> str:
    """Everything there is to say of each claim."""
    rows = []
    for tell in CLAIMS:
        record = recorded(tell.__name__)
        claim = tell(record)
        where = f"{record['machine']['processor']}, {record['machine']['cores']} cores"
        command = f"`{record['command']}`"
        rows.append((claim.what, claim.ours, claim.theirs, claim.ratio, claim.bound, where, record["date"], command))
    return _table(("what", "ours", "theirs", "ratio", "limit", "machine", "date", "command"), rows)


def _script(name: str) -> str:
    """The command behind a record, without what is the same in all."""
    command: str = recorded(name)["command"]
    return command.removeprefix("python -m benchmarks.")


def _in_brackets(ratio: str) -> str:
    return f" ({ratio})" if ratio else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
