"""Converts corpora from the form in which they are published to the files that the configs name.

A converter gets the paths of the published archives by name, and returns the lines of each file. Archives are read
member by member and never extracted: a member's name only says whether it is read, so that none can be written outside
the target folder, and links are passed over. The converters of the Bible, BBC News and IMDb give the files that the
published scores were measured on, byte for byte. Hence shuffles and rules must not change.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import random
import re
import statistics
import tarfile
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from scripts.fetching.download import FetchError


class UselessArchiveError(FetchError):
    """An archive cannot be converted, so that it need not be kept."""


Lines = dict[str, list[str]]
"""The lines of each file by the file's name."""

SEED = 7
"""Of all shuffles. `random.Random(SEED).shuffle` gives the same order with every version of Python since 3.2."""
LARGEST_MEMBER = 1 << 28
"""Bytes of the largest file in an archive that is read; the real ones stay below 50 million."""
HELD_OUT = 3000
"""Pairs of Tatoeba in dev, and as many in test."""


def convert(corpus: str, archives: Mapping[str, Path]) -> dict[str, bytes]:
    """Returns the corpus's files by name, compressed where the name ends in .gz, or raises FetchError."""
    try:
        files = CONVERTERS[corpus](archives)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        problem = one_line(str(error))
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        problem = f"{type(error).__name__}: {one_line(str(error))}"
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # None: no gzip; EINVAL: a place before the beginning of the file.
            raise
        problem = one_line(str(error))
    else:
        return {name: encode(name, lines) for name, lines in files.items()}
    raise UselessArchiveError(
        f"{', '.join(map(str, archives.values()))}: damaged, or not {corpus} as published ({problem})"
    )


def encode(name: str, lines: list[str]) -> bytes:
    """Returns the content of a file. The same lines give the same bytes at any time."""
    content = "".join(f"{line}\n" for line in lines).encode()
    return gzip.compress(content, mtime=0) if name.endswith(".gz") else content


def members(archive: Path, pattern: str) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yields the match and the content of every regular file of a tar or zip archive whose whole name matches."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if match := re.fullmatch(pattern, info.filename):
                    _check_size(archive, info.filename, info.file_size)
                    yield match, zipped.read(info)
        return
    with tarfile.open(archive, "r:gz") as tarred:
        for member in tarred:
            if member.isfile() and (match := re.fullmatch(pattern, member.name.removeprefix("./"))):
                _check_size(archive, member.name, member.size)
                stream = tarred.extractfile(member)
                assert stream is not None  # A regular file has content.
                yield match, stream.read()


def _check_size(archive: Path, name: str, size: int) -> None:
    if size > LARGEST_MEMBER:
        raise UselessArchiveError(f"{archive}: {name} has {size:,} bytes, more than any file of this corpus")


def lines_of(text: str) -> list[str]:
    """Returns the lines of a file. Unlike `str.splitlines`, only line feeds separate them."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def one_line(text: str) -> str:
    """Returns the text with every run of white space as one space."""
    return " ".join(text.split())


# Documents

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9$£])")
_ABBREVIATION = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Lt|Col|Gen|Capt|No|vs|etc|e\.g|i\.e))\.$")


def sentences(text: str) -> list[str]:
    """Returns the sentences of a text in which every line is a paragraph."""
    found = []
    for line in text.split("\n"):
        paragraph, start = one_line(line), 0
        for match in _SENTENCE_END.finditer(paragraph):
            sentence = paragraph[start : match.end()].strip()
            if not _ABBREVIATION.search(sentence):
                found.append(sentence)
                start = match.end()
        if rest := paragraph[start:]:
            found.append(rest)
    return found


def bbc_news(archives: Mapping[str, Path]) -> Lines:
    """BBC News: 80% of the documents for training, half of the rest for dev and test each. Copies are left out."""
    texts = {}
    for match, content in members(archives["bbc-fulltext.zip"], r"bbc/(\w+)/(\d+)\.txt"):
        try:
            text = content.decode()
        except UnicodeDecodeError:  # One document, sport/199.
            text = content.decode("latin-1")
        texts[f"{match[1]}/{match[2]}"] = "\t".join(sentences(text))
    if not texts:
        raise ValueError("no file named bbc/LABEL/NUMBER.txt")
    order = sorted(texts)
    random.Random(SEED).shuffle(order)
    first: dict[str, str] = {}
    for name in order:  # The first of several copies in this order is kept.
        first.setdefault(texts[name], name)
    names = list(first.values())
    training = len(names) * 8 // 10
    dev = training + (len(names) - training) // 2
    files: Lines = {}
    for split, part in (("train", names[:training]), ("dev", names[training:dev]), ("test", names[dev:])):
        files[f"{split}.docs.txt.gz"] = [texts[name] for name in part]
        files[f"{split}.labels.tsv.gz"] = [f"{name.split('/')[0]}\t{name}" for name in part]
    return files


def imdb(archives: Mapping[str, Path]) -> Lines:
    """IMDb's reviews with the authors' own split into train and test, shuffled."""
    reviews: dict[str, list[tuple[int, str, str, str]]] = {"train": [], "test": []}
    pattern = r"aclImdb/(train|test)/(pos|neg)/(\d+)_(\d+)\.txt"
    for match, content in members(archives["aclImdb_v1.tar.gz"], pattern):
        # U+0085 is an ellipsis of Windows-1252 that was decoded as Latin-1.
        text = re.sub(r"(?:<br\s*/?>\s*)+", "\n", content.decode()).replace("\x85", "...")
        split, label, number, rating = match.groups()
        reviews[split].append((int(number), label, rating, "\t".join(sentences(text))))
    files: Lines = {}
    for split, found in reviews.items():
        if not found:
            raise ValueError(f"no file named aclImdb/{split}/LABEL/NUMBER_RATING.txt")
        found.sort()
        random.Random(SEED).shuffle(found)
        files[f"{split}.docs.txt.gz"] = [text for *_, text in found]
        files[f"{split}.labels.tsv.gz"] = [
            f"{label}\t{rating}\t{split}/{label}/{number}_{rating}" for number, label, rating, _ in found
        ]
    return files


# The Bible

_OSIS = "{http://www.bibletechnologies.net/2003/OSIS/namespace}"
BIBLE_PAIRS = (("elb1905", "darby"), ("luth1912", "kjv"), ("elb1871", "asv"))
BIBLE_SPLITS = {"dev": {"1John", "Eccl", "Lam", "Phil"}, "test": {"Mark", "Ruth"}}
LEAST_CORRELATION = 0.4
"""Of the lengths of a chapter's verses in both languages. A lower one means that verses are numbered differently."""


def bible_de_en(archives: Mapping[str, Path]) -> Lines:
    """Verses of three pairs of translations. A chapter is a document; whole books are held out for dev and test.

    A chapter is left out where the two translations have different numbers of verses, or lengths that do not fit. A
    German psalm may count its heading as one or two verses; these are left out.
    """
    files: Lines = {f"{split}.{kind}.gz": [] for split in ("train", "dev", "test") for kind in ("de", "en", "docid")}
    for german_name, english_name in BIBLE_PAIRS:
        german, english = (_chapters(archives[f"{name}.xml"]) for name in (german_name, english_name))
        for book, chapter in sorted(german.keys() & english.keys()):
            sources, targets = german[book, chapter], english[book, chapter]
            headings = len(sources) - len(targets)
            if book == "Ps" and headings in (1, 2):
                sources = sources[headings:]
            if len(sources) != len(targets) or not _lengths_fit(sources, targets):
                continue
            split = next((name for name, books in BIBLE_SPLITS.items() if book in books), "train")
            document = f"{german_name}-{english_name}:{book}.{chapter}"
            files[f"{split}.de.gz"] += sources
            files[f"{split}.en.gz"] += targets
            files[f"{split}.docid.gz"] += [f"{document}\t{number}" for number in range(1, len(sources) + 1)]
    return files


def _chapters(osis: Path) -> dict[tuple[str, int], list[str]]:
    """Returns the verses of each chapter, by book and number. Verses without text are left out."""
    chapters: dict[tuple[str, int], list[str]] = {}
    for verse in ElementTree.parse(osis).iter(f"{_OSIS}verse"):
        book, chapter, _ = verse.attrib["osisID"].split(".")
        # Brackets and braces mark words that the translators added, and headings.
        if text := re.sub(r"[\[\]{}]", "", one_line(_without_notes(verse))).strip():
            chapters.setdefault((book, int(chapter)), []).append(text)
    return chapters


def _without_notes(element: ElementTree.Element) -> str:
    parts = [element.text or ""]
    for child in element:
        if child.tag != f"{_OSIS}note":
            parts.append(_without_notes(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _lengths_fit(sources: list[str], targets: list[str]) -> bool:
    lengths = [len(text) for text in sources], [len(text) for text in targets]
    if min(len(set(each)) for each in lengths) < 2:  # Without differences there is no correlation.
        return False
    return statistics.correlation(*lengths) >= LEAST_CORRELATION


# Sentences


def tatoeba_de_en(archives: Mapping[str, Path]) -> Lines:
    """Tatoeba's pairs. dev and test are chosen by the pairs' SHA-256, so that they change little between releases.

    No sentence of either language occurs in two splits: pairs that share one with dev or test are left out of train.
    """
    [(_, about)] = members(archives["deu-eng.zip"], r"_about\.txt")
    [(_, content)] = members(archives["deu-eng.zip"], r"deu\.txt")
    pairs: dict[tuple[str, str], None] = {}
    for number, line in enumerate(lines_of(content.decode("utf-8-sig")), 1):
        columns = line.split("\t")  # English, German, and since 2019 the authors.
        if len(columns) < 2:
            raise ValueError(f"deu.txt:{number}: less than two columns")
        german, english = one_line(columns[1]), one_line(columns[0])
        if german and english:
            pairs[german, english] = None
    order = sorted(pairs, key=lambda pair: hashlib.sha256("\t".join(pair).encode()).digest())
    held_out: dict[tuple[str, str], None] = {}
    taken: tuple[set[str], set[str]] = (set(), set())
    for pair in order:
        if len(held_out) < 2 * HELD_OUT and not _shares(pair, taken):
            held_out[pair] = None
            for side, sentence in zip(taken, pair, strict=True):
                side.add(sentence)
    if len(held_out) < 2 * HELD_OUT:
        raise ValueError(f"deu.txt has too few different sentences for {2 * HELD_OUT:,} pairs in dev and test")
    chosen = list(held_out)
    train = [pair for pair in order if pair not in held_out and not _shares(pair, taken)]
    files: Lines = {"LICENCE.txt": lines_of(about.decode("utf-8-sig"))}
    for split, part in (("dev", chosen[:HELD_OUT]), ("test", chosen[HELD_OUT:]), ("train", train)):
        files[f"{split}.de.gz"] = [german for german, _ in part]
        files[f"{split}.en.gz"] = [english for _, english in part]
    return files


def _shares(pair: tuple[str, str], taken: tuple[set[str], set[str]]) -> bool:
    return any(sentence in side for sentence, side in zip(pair, taken, strict=True))


def word_align(archives: Mapping[str, Path]) -> Lines:
    """RWTH's alignments with positions from 0 in order, without the sentence pair that has no text."""
    content = {
        match[1]: text for match, text in members(archives["DeEnGoldAlignment.tar.gz"], r"DeEn/(de|en|.*\.talp)")
    }
    german, english = (lines_of(content[name].decode("latin-1")) for name in ("de", "en"))
    links = lines_of(content["alignmentDeEn.talp"].decode("ascii"))
    files: Lines = {"de-en.src": [], "de-en.tgt": [], "de-en.talp": []}
    for source, target, line in zip(german, english, links, strict=True):
        if source.strip():
            files["de-en.src"].append(source.strip())
            files["de-en.tgt"].append(target.strip())
            found = [re.fullmatch(r"(\d+)([-p])(\d+)", link) for link in line.split()]
            if not all(found):
                raise ValueError(f"alignmentDeEn.talp: {line!r} is no list of links such as 1-2 or 1p2")
            places = sorted((int(link[1]) - 1, int(link[3]) - 1, link[2]) for link in found if link)
            files["de-en.talp"].append(" ".join(f"{i}{kind}{j}" for i, j, kind in places))
    return files


CONVERTERS: dict[str, Callable[[Mapping[str, Path]], Lines]] = {
    "bbc-news": bbc_news,
    "bible-de-en": bible_de_en,
    "imdb": imdb,
    "tatoeba-de-en": tatoeba_de_en,
    "word-align": word_align,
}
