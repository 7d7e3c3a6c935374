"""Strategies that several kinds of cases share: hostile values, text and bytes, and damage to bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Sequence

import zstandard
from hypothesis import strategies as st

Mutation = tuple[str, Callable[[bytes], bytes]]
"""Description of a mutation, and its function."""

NUMBERS = (
    *("0", "-1", "1", "2", "3", "7", "16", "0.0", "-0.0", "0.5", "1.5", "-0.5", "0.999999999", "1e-300", "5e-324"),
    *("1e300", "-1e300", "1e23", "1e400", ".nan", ".inf", "-.inf", "NaN", "Infinity", "010", "0x10", "1_000", "12:30"),
    *("100000", "10000000", "2147483648", "1099511627776", "4611686018427387904", "9223372036854775807"),
    *("9223372036854775808", "-9223372036854775809", "18446744073709551616", "9" * 400, "9" * 5000, "+5", "5e-4"),
)
WORDS = (
    *("true", "false", "no", "yes", "null", "~", '""', "''", '" "', "a", "auto", "none", "ä", "\U0001f600", "x" * 300),
    *("'a\tb'", '"\\0"', '"a\\nb"', '"\\ud800"', '"\\u2028"', "2026-11-28", ".", "..", "x/" * 3000, "-", "?", "*", "&"),
    *(
        "!!python/name:os.system",
        "!!binary aGk=",
        "!!int x",
        "!!float [a]",
        "!a b",
        "!!set {a}",
        "%",
        "@",
        "`",
        "|",
        ">",
    ),
)
STRUCTURES = (
    *("[]", "{}", "[1, 2]", "[null]", "[[a]]", "{a: b}", "{kind: gru}", "{kind: null}", "{kind: [a]}", "{1: 2}"),
    *("{? [a] : b}", "{a: 1, a: 2}", "{<<: {a: b}}", "{<<: 1}", "{<<: [1]}", "&x [*x]", "&x {<<: *x}", "*missing"),
    *("{preset: bahdanau2015}", "{preset: 7}", "[" * 60 + "]" * 60, "[" * 700 + "]" * 700, "{a: " * 600 + "}" * 600),
)
BOMB = (
    "{"
    + ", ".join(
        ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    )
    + "}"
)
MERGE_BOMB = (
    "{"
    + ", ".join(["b0: &b0 {x0: 1}"] + [f"b{n}: &b{n} {{<<: [*b{n - 1}, *b{n - 1}], x{n}: 1}}" for n in range(1, 30)])
    + "}"
)
MANY_KEYS = "{" + ", ".join(f"key_{n}: {n}" for n in range(20_000)) + "}"

SENTENCES = (
    "der hund schläft .",
    "ein kind spielt mit dem ball .",
    "die katze sieht einen vogel .",
    "zwei frauen lesen .",
)
HOSTILE_TEXTS: tuple[bytes, ...] = (
    b"",
    b" ",
    b"\t",
    b"\r",
    b"a\tb\tc",
    b"a\r\nb",
    b"\x00",
    b"a\x00b",
    b"\xff\xfe",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80",
    b"\xef\xbb\xbf",
    b"\xef\xbb\xbfa b",
    "a\u2028b\u2029c\u0085d".encode(),
    "\u200b\u200d\u00a0".encode(),
    "a\u0301\u0302".encode() * 20,
    "\U0001f469\u200d\U0001f4bb \ufffd \ufffe".encode(),
    "\u2581 \u2581a".encode(),
    b"<s> </s> <unk> <pad>",
    b"|||",
    b"a ||| b ||| c",
    b"0-0 1-1",
    b"0-99999999999999999999",
    b"-1-0 x-y 3",
    b'{"a": 1}',
    b'"',
    b"x" * 5000,
    b"x " * 3000,
    "\u4f60\u597d".encode() * 700,
    b"\x0b\x0c\x1b[31m\x7f",
)


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


valid_texts = st.one_of(
    st.sampled_from([text for text in HOSTILE_TEXTS if _is_text(text)]),
    st.sampled_from([sentence.encode() for sentence in SENTENCES]),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=12).map(str.encode),
)
"""A line's content in UTF-8, which may hold line breaks too."""
hostile_texts = st.one_of(
    st.sampled_from(HOSTILE_TEXTS),
    st.sampled_from([sentence.encode() for sentence in SENTENCES]),
    st.text(max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=12),
)
"""The same, or not in UTF-8."""


def yaml_values(names: Sequence[str]) -> st.SearchStrategy[str]:
    """Text in the place of a YAML value; `names` are words that mean something somewhere in the schema."""
    return st.one_of(
        st.sampled_from(NUMBERS),
        st.sampled_from(names),
        st.sampled_from(WORDS),
        st.sampled_from(STRUCTURES),
        st.sampled_from(names).map(lambda name: f"{{kind: {name}}}"),
        st.integers().map(str),
        st.floats().map(str),
        st.text(alphabet=st.characters(codec="utf-8"), max_size=8),
    )


def flip(position: int, bit: int) -> Mutation:
    """Change one bit."""

    def apply(content: bytes) -> bytes:
        if not content:
            return content
        changed = bytearray(content)
        changed[position % len(content)] ^= 1 << bit
        return bytes(changed)

    return f"flip bit {bit} at {position}", apply


def truncate(position: int) -> Mutation:
    """Keep the beginning only."""
    return f"truncate at {position}", lambda content: content[: position % (len(content) + 1)]


def insert(position: int, new: bytes) -> Mutation:
    """Insert bytes."""

    def apply(content: bytes) -> bytes:
        start = position % (len(content) + 1)
        return content[:start] + new + content[start:]

    return f"insert {new[:40]!r} at {position}", apply


def overwrite(position: int, new: bytes) -> Mutation:
    """Write over bytes; the size stays where there is room."""

    def apply(content: bytes) -> bytes:
        start = position % (len(content) + 1)
        return content[:start] + new + content[start + len(new) :]

    return f"overwrite {new[:40]!r} at {position}", apply


def replace(new: bytes) -> Mutation:
    """Other content altogether."""
    return f"replace by {new[:40]!r}", lambda content: new


positions = st.one_of(st.integers(0, 400), st.integers(0, 1 << 20), st.integers(-300, -1))

damage: st.SearchStrategy[Mutation] = st.one_of(
    st.builds(flip, positions, st.integers(0, 7)),
    st.builds(truncate, positions),
    st.builds(insert, positions, st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(HOSTILE_TEXTS))),
    st.builds(overwrite, positions, st.binary(min_size=1, max_size=8)),
    st.builds(
        replace, st.one_of(st.sampled_from([b"", b"\n", b"{}", b"[]", b"null", b"\x00" * 100]), st.binary(max_size=40))
    ),
)

COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
