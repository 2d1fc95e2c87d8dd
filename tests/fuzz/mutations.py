"""Seeded damage to bytes, gzip files, NIfTI headers, trees of values and YAML; every choice is the generator's."""

import copy
import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random
from typing import Any

import nibabel as nib
import numpy as np
import yaml

_WORDS = [struct.pack(f"{order}{kind}", value) for order in "<>" for kind in "hiq" for value in (0, 1, -1)] + [
    *(b"\xff\x7f", b"\x00\x80", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f"),
    *(b"\x00", b"\xff", b"\n", b'"', b",", b"'", b"\\", b"\xef\xbb\xbf", b"\xc3\x28", b"\xed\xa0\x80", b"\x1f\x8b\x08"),
]
_FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-3, 1e3, 352.0, 352.5, 1e-20, 1e20, 5e-324, 1e-45, 1e-300, 1e300, 3.4e38]
_FLOATS += [-1e300, -3.4e38, float("nan"), float("inf"), float("-inf")]
_INTEGERS = [0, 1, 2, 3, 4, 7, 8, 16, 64, 255, 348, 352, 512, 2048, 2**15 - 1, 2**24, 2**31 - 1, 2**40, 2**63 - 1]

SCALARS: list[Any] = [
    *(None, True, False, *_INTEGERS, -1, -(2**63), 2**63, 2**64, 10**400, *_FLOATS, [], {}, [[]], [{}], {"": {}}),
    *("", " ", "x", "0", "nan", "1e5", "true", "x" * 300, "x" * 20_000, "../..", "/etc/passwd", "a/../b", "a\\b"),
    *("a\0b", "a\nb", "é", "\u202e", "\ud800", "s3://b/k", "ftp://x", "%2e%2e%2f", ".hidden", "CON", "case-1"),
]
"""What replaces a value anywhere in a document."""

_TOKENS = [
    *("2001-99-99", "2001-01-01", "0x_", "0b_", "._", "0o9", "1:60:60", "9" * 5000, "0x" + "f" * 5000, ".inf", ".nan"),
    *("!!int ''", "!!float ''", "!!bool maybe", "!!timestamp x", "!!binary é", "!!set {a, b}", "!!omap [a: 1]", "="),
    *("!!python/object/apply:os.getcwd []", "!!str 3", "!local x", "*nosuch", "&a [*a]", "&a {b: *a}", "? [a]\n: b"),
    *(
        "{<<: 3}",
        "{<<: [{a: 1}, 2]}",
        "{? [a] : b}",
        "[" * 3000,
        "[" * 300 + "]" * 300,
        "{a: " * 300 + "}" * 300,
        "- " * 900,
    ),
    *("%YAML 9.9\n---", "---\n---", "...", "\t", "\0", "\u2028", "\ufeff", "y", "~", "|\n  x", ">-\n x", "'", '"\\x'),
]


def damaged_bytes(rng: Random, data: bytes, other: bytes) -> bytes:
    """`data` after one to four cuts, insertions or overwritten places, or spliced with `other`."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        data = rng.choice(_BYTE_DAMAGES)(rng, data, other)
    return data


def _place(rng: Random, data: bytes) -> int:
    """A position, near the start of the file every other time."""
    return rng.randrange(min(len(data), rng.choice([64, 400, len(data) or 1])) or 1)


def _flip(rng: Random, data: bytes, _other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else data


def _overwrite(rng: Random, data: bytes, _other: bytes) -> bytes:
    at, word = _place(rng, data), rng.choice([*_WORDS, rng.randbytes(rng.randint(1, 40))])
    return data[:at] + word + data[at + len(word) :]


def _insert(rng: Random, data: bytes, _other: bytes) -> bytes:
    at, word = _place(rng, data), rng.choice([*_WORDS, rng.randbytes(rng.randint(1, 40))])
    return data[:at] + word * rng.choice([1, 1, 1, 100, 5000]) + data[at:]


def _truncate(rng: Random, data: bytes, _other: bytes) -> bytes:
    return data[: rng.choice([_place(rng, data), len(data) - rng.randint(1, 16)])]


def _remove(rng: Random, data: bytes, _other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.randint(1, 50) :]


def _repeat(rng: Random, data: bytes, _other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at : at + rng.randint(1, 200)] * rng.choice([2, 3, 50]) + data[at:]


def _splice(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)] + other[_place(rng, other) :]


_BYTE_DAMAGES = (_flip, _flip, _overwrite, _overwrite, _insert, _truncate, _remove, _repeat, _splice)


def _pack(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)  # the time would make each run another


def tricky_gzip(rng: Random, raw: bytes, other: bytes) -> bytes:
    """A gzip file of `raw` that is odd in its members, its header, its trailer or what follows it."""
    at = _place(rng, raw)
    plain, name = _pack(raw), b"PATIENT^NAME\0"
    body, size = plain[10:-8], struct.pack("<I", len(raw))
    stored = zlib.compressobj(0, wbits=31)
    forms: list[Callable[[], bytes]] = [
        lambda: _pack(raw[:at]) + _pack(raw[at:]),
        lambda: b"".join(_pack(raw[i : i + 97]) for i in range(0, len(raw), 97)),
        lambda: _pack(b"") * rng.choice([1, 3, 500]) + plain,
        lambda: plain + rng.choice([b"\0" * 512, b"\0", b"junk", b"\x1f\x8b", _pack(other), plain[:12]]),
        lambda: b"\x1f\x8b\x08\x08" + bytes(6) + name + plain[10:],
        lambda: b"\x1f\x8b\x08\x04" + bytes(6) + struct.pack("<H", rng.choice([0, 4, 65535])) + b"abcd" + plain[10:],
        lambda: b"\x1f\x8b\x08" + rng.randbytes(1) + bytes(6) + name * rng.choice([0, 1, 300, 60_000]) + plain[10:],
        lambda: plain[:10] + body + struct.pack("<I", rng.getrandbits(32)) + size,
        lambda: plain[:-4] + struct.pack("<I", rng.choice([0, 2**32 - 1, len(raw) + 1])),
        lambda: _pack(raw + bytes(rng.choice([1, 3_000_000]))),
        lambda: stored.compress(raw) + stored.flush(),
        lambda: zlib.compress(raw, wbits=rng.choice([15, -15])),
        lambda: _pack(plain),
        lambda: plain[: 10 + rng.randrange(len(body))] + body,
    ]
    return rng.choice(forms)()


def damaged_header(rng: Random, raw: bytes) -> bytes:
    """An uncompressed NIfTI file with one to three header fields set to extremes."""
    kind = image_class(raw).header_class
    size = kind.sizeof_hdr
    header = kind(raw[:size], check=False)
    for _ in range(rng.choice([1, 1, 2, 3])):
        _set_field(rng, header, rng.choice([*header.keys(), *_FIELDS]))
    return header.binaryblock + raw[size:]


def image_class(raw: bytes) -> Any:
    """nibabel's class for a file, by the size its header has."""
    sizes = (*struct.unpack("<i", raw[:4]), *struct.unpack(">i", raw[:4]))
    return nib.Nifti1Image if 348 in sizes else nib.Nifti2Image


_FIELDS = ("dim", "pixdim", "datatype", "vox_offset", "scl_slope", "scl_inter", "sform_code", "qform_code", "srow_x")
_FIELDS += ("srow_y", "srow_z", "quatern_b", "xyzt_units", "magic")


def _set_field(rng: Random, header: Any, name: str) -> None:
    field = header[name]
    if field.dtype.kind == "S":
        header[name] = rng.choice([b"", b"n+1", b"n+2", b"ni1", b"PATIENT^NAME", rng.randbytes(field.dtype.itemsize)])
    elif name == "datatype":
        header[name] = rng.choice([*map(int, nib.nifti1.data_type_codes.value_set()), rng.randrange(2**15)])
    elif field.ndim == 0:
        header[name] = _extreme(rng, field.dtype)
    elif rng.random() < 0.2:
        header[name] = [_extreme(rng, field.dtype) for _ in field]
    else:
        field[rng.randrange(len(field))] = _extreme(rng, field.dtype)


def _extreme(rng: Random, dtype: np.dtype) -> Any:
    if dtype.kind == "f":
        with np.errstate(over="ignore", under="ignore"):
            return np.array(rng.choice([*_FLOATS, rng.uniform(-300, 300)])).astype(dtype).item()
    limits = np.iinfo(dtype)
    return rng.choice(
        [limits.min, limits.max, *(i for v in _INTEGERS for i in (v, -v) if limits.min <= i <= limits.max)]
    )


def damaged_tree(rng: Random, tree: Any) -> Any:
    """A copy of nested lists and dicts in which one to three values are replaced, removed, repeated or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = list(_places(tree))
        if places:
            _damage_place(rng, *rng.choice(places))
    return tree if rng.random() > 0.02 else rng.choice(SCALARS)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def _damage_place(rng: Random, parent: Any, key: Any) -> None:
    value, form = parent[key], rng.randrange(8)
    if form == 0:
        del parent[key]
    elif form == 1 and isinstance(parent, dict):
        parent[rng.choice(["", "x" * 300, "a.b", "é", "\0", f"{key}s", str(key)[:-1]])] = parent.pop(key)
    elif form == 1:
        parent.insert(key, copy.deepcopy(value))
    elif form == 2:
        parent[key] = rng.choice([[value], {"a": value}, str(value), [value] * 300])
    elif form == 3 and isinstance(value, int | float):
        parent[key] = rng.choice([-value, value + 1, value * 1000, value // 2, value - 1])
    else:
        parent[key] = copy.deepcopy(rng.choice(SCALARS))


def as_json(rng: Random, tree: Any) -> bytes:
    """JSON of a tree, with what only Python's dialect has, and now and then nested too deeply or with keys twice."""
    data = json.dumps(tree, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    form = rng.randrange(30)
    if form == 0:
        return rng.choice([b"[", b'{"a":']) * rng.choice([50, 500, 100_000])
    if form == 1:
        return data[:-1] + b"," + data[1:]
    if form == 2:
        return data.replace(b"1", b"1" * 5000, 1)
    return data


def as_yaml(rng: Random, tree: Any) -> bytes:
    """YAML of a tree in which, half of the time, a word is replaced by one that YAML reads in its own way."""
    text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False, width=10**6)
    form = rng.randrange(100)
    if form == 0:
        return rng.choice(yaml_bombs()).encode()
    if form < 40:
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        before, token = lines[at].partition(":")[0], rng.choice(_TOKENS)
        lines[at] = rng.choice([f"{before}: {token}", token, f"{lines[at]}\n{token}"])
        text = "\n".join(lines) + "\n"
    return text.encode("utf-8", "surrogatepass")


def yaml_bombs() -> list[str]:
    """Small documents that are large, deep or endless once their aliases are followed."""
    levels = "abcdefghijklmnop"
    laughs, merges = ["a: &a [ha, ha]"], ["a: &a {ha: 1, ho: 2}"]
    for above, here in pairwise(levels):
        nine = ", ".join([f"*{above}"] * 9)
        laughs.append(f"{here}: &{here} [{nine}]")
        merges.append(f"{here}: &{here} {{<<: [{nine}]}}")
    deep = "\n".join(" " * i + "a:" for i in range(300))
    return ["\n".join(laughs), "\n".join(merges), deep, "[" * 100_000, "a: &a {b: *a, <<: *a}", "- " * 20_000]
