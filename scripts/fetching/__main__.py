"""Puts a corpus into data/NAME: copied from a folder of this machine where there is one, else from its public home.

Every file is checked against the SHA-256 of its decompressed content in data/corpora.json before it gets its name, so
that what lies under data/ is whole. Corpora that are published in another form are converted. A download that breaks
off is kept and goes on from there. Needs nothing but Python. Exit codes: 0 the corpora are whole, 2 something is
wrong, in one line, 130 interrupted.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scripts.fetching.convert import UselessArchiveError, convert
from scripts.fetching.download import BLOCK, Archive, FetchError, Patience, download, sha256_of

ROOT = Path(__file__).resolve().parent.parent.parent
RECORD = "fetched.json"
"""In a corpus's folder: from which archives other files than those of corpora.json come, and what they must contain."""


@dataclass(frozen=True)
class File:
    """A file of a corpus, and what it must contain (decompressed, where its name ends in .gz)."""

    name: str
    bytes: int
    sha256: str

    def matches(self, path: Path) -> bool:
        """Returns whether the file at `path`, under whatever name, has this content."""
        digest, size = hashlib.sha256(), 0
        try:
            with gzip.open(path) if self.name.endswith(".gz") else path.open("rb") as stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
                    size += len(block)
                    if size > self.bytes:
                        return False
        except (gzip.BadGzipFile, zlib.error, EOFError):
            return False
        return digest.hexdigest() == self.sha256


@dataclass(frozen=True)
class Corpus:
    """A corpus of data/corpora.json.

    `home` is the URL of a folder that holds its files as they are, `archives` are what it is published as otherwise.
    `exact` tells whether these can be converted to exactly these files. `form` is the page of a form that users must
    fill in before they get the archives.
    """

    name: str
    about: str
    licence: str
    original: str
    exact: bool
    files: tuple[File, ...]
    home: str | None = None
    archives: tuple[Archive, ...] = ()
    form: str | None = None


@dataclass(frozen=True)
class Request:
    """Arguments of the command: target folder, origins of the corpora, and options of the download."""

    into: Path
    origin: str | None
    archives: Path | None
    force: bool
    patience: Patience


def read_table(path: Path) -> dict[str, Corpus]:
    """Returns the corpora that can be fetched, by name."""
    try:
        corpora = {}
        for name, entry in json.loads(path.read_text(encoding="utf-8")).items():
            files = tuple(File(file, **content) for file, content in entry.pop("files").items())
            archives = tuple(Archive(each, **content) for each, content in entry.pop("archives", {}).items())
            corpora[name] = Corpus(name, **entry, files=files, archives=archives)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(f"{path} is not a table of corpora: {error}") from None
    return corpora


def local_folder() -> Path:
    """Where corpora may lie on this machine: `$NMT_SHARED_DATA`, or the folder shared/data beside the checkout."""
    return Path(os.environ.get("NMT_SHARED_DATA") or ROOT.parent / "shared" / "data")


def origin_of(corpus: Corpus, request: Request) -> str | None:
    """Returns the folder or URL that holds the corpus's files as they are, or None where they must be converted."""
    if request.archives is not None:
        return None
    if request.origin:
        return f"{request.origin.rstrip('/')}/{corpus.name}"
    if (folder := local_folder() / corpus.name).is_dir():
        return str(folder)
    return corpus.home


def fetch(corpus: Corpus, request: Request) -> None:
    """Makes the files of the corpus whole; those that are stay as they are, unless `force`."""
    folder = request.into / corpus.name
    record = None if request.force else read_record(folder / RECORD)
    missing = []
    for file in corpus.files if record is None else record:
        path = folder / file.name
        if request.force or not path.exists():
            missing.append(file)
        elif not file.matches(path):
            raise FetchError(f"{path} is not the published file (its SHA-256 differs); --force replaces it")
    if not missing:
        print(f"{corpus.name}: whole, in {folder}{'' if record is None else f'; {OTHER_VERSION}'}")
        return
    origin = origin_of(corpus, request)
    if origin is None:
        fetch_converted(corpus, request)
    else:
        fetch_files(corpus, missing if record is None else list(corpus.files), origin, folder, request.patience)
    print(f"{corpus.name}: whole, in {folder}")


def fetch_files(corpus: Corpus, missing: list[File], origin: str, folder: Path, patience: Patience) -> None:
    """Copies or downloads files that are published as they are needed."""
    print(f"{corpus.name}: {len(missing)} of {len(corpus.files)} files from {origin} (licence: {corpus.licence})")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    for file in missing:
        part = folder / f"{file.name}.part"
        if origin.startswith(("http://", "https://")):
            download(f"{origin}/{file.name}", part, file.matches, patience)
        else:
            copy(Path(origin) / file.name, part, file)
        size = part.stat().st_size
        os.replace(part, folder / file.name)
        print(f"{corpus.name}: {file.name}, {size:,} bytes")


def copy(source: Path, part: Path, file: File) -> None:
    """Copies a local file to `part` and refuses one with other content."""
    if not source.is_file():
        raise FetchError(f"{source} does not exist")
    try:
        shutil.copyfile(source, part)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FetchError(f"cannot copy {source} to {part}: {error.strerror}") from None
    if not file.matches(part):
        part.unlink()
        raise FetchError(f"{source} is not the published file (its SHA-256 differs); it was not installed")


# Conversion

OTHER_VERSION = "not the version that the scores in docs/ were measured on: yours will differ from them"


def fetch_converted(corpus: Corpus, request: Request) -> None:
    """Gets the archives, converts them and installs all files of the corpus, or none.

    Archives are kept in INTO/.downloads until the corpus is whole, so that the same command goes on after a break.
    """
    print(f"{corpus.name}: from {corpus.original} (licence: {corpus.licence})")
    downloads = request.into / ".downloads" / corpus.name
    goes_on = True
    try:
        archives = {each.name: get_archive(corpus, each, downloads, request) for each in corpus.archives}
        print(f"{corpus.name}: converting")
        install(convert_and_check(corpus, archives), request.into / corpus.name)
        goes_on = False
    except UselessArchiveError:
        goes_on = False
        raise
    finally:
        if not goes_on:
            shutil.rmtree(downloads, ignore_errors=True)
        for folder in (downloads, downloads.parent):
            with suppress(OSError):  # It does not exist, or holds what the next run goes on with.
                folder.rmdir()


def convert_and_check(corpus: Corpus, archives: Mapping[str, Path]) -> dict[str, bytes]:
    """Returns the corpus's files, and a record with them where they are not those of corpora.json."""
    contents = convert(corpus.name, archives)
    files = {name: describe(name, content) for name, content in contents.items()}
    different = [file.name for file in corpus.files if files.get(file.name) != file]
    if different and corpus.exact:
        raise UselessArchiveError(
            f"{', '.join(map(str, archives.values()))}: gives another {different[0]} than the published one (its "
            "SHA-256 differs); nothing was installed"
        )
    if different:
        print(f"{corpus.name}: {OTHER_VERSION} ({', '.join(different)})")
        sources = {name: sha256_of(path) for name, path in archives.items()}
        contents[RECORD] = to_record(sources, files)
    return contents


def describe(name: str, content: bytes) -> File:
    """Returns the description of a file with this content, which is compressed where the name ends in .gz."""
    content = gzip.decompress(content) if name.endswith(".gz") else content
    return File(name, len(content), hashlib.sha256(content).hexdigest())


def get_archive(corpus: Corpus, archive: Archive, downloads: Path, request: Request) -> Path:
    """Returns the path of an archive of the user's folder, or of the downloaded one."""
    if request.archives is not None:
        path = request.archives / archive.name
        if not path.is_file():
            raise FetchError(f"{path} does not exist; {corpus.name} needs {', '.join(a.name for a in corpus.archives)}")
        if not archive.matches(path):
            raise FetchError(f"{path} is not the published archive (its SHA-256 differs); nothing was installed")
        return path
    if archive.url is None:
        raise FetchError(
            f"{corpus.name}: {archive.name} is given only to people who agree to its licence ({corpus.licence}) in the "
            f"form at {corpus.form}; put it into a folder and name that with --archives FOLDER"
        )
    path = downloads / archive.name
    if path.is_file() and archive.sha256 is not None and archive.matches(path):
        return path
    downloads.mkdir(parents=True, exist_ok=True)
    print(f"{corpus.name}: {archive.url}")
    part = downloads / f"{archive.name}.part"
    download(archive.url, part, archive.matches if archive.sha256 else None, request.patience)
    os.replace(part, path)
    return path


def install(contents: Mapping[str, bytes], folder: Path) -> None:
    """Writes all files beside `folder`, and moves them there only when they are complete."""
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        for name, content in contents.items():
            (new / name).write_bytes(content)
        folder.mkdir(exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)
        for name in contents:  # The record is the last.
            os.replace(new / name, folder / name)
    except OSError as error:
        raise FetchError(f"cannot write {folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def to_record(archives: Mapping[str, str], files: Mapping[str, File]) -> bytes:
    """Returns the content of a record."""
    about = {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in files.values()}
    return (json.dumps({"archives": archives, "files": about}, indent=1) + "\n").encode()


def read_record(path: Path) -> list[File] | None:
    """Returns the files that were converted from another version, or None where there is no record."""
    if not path.exists():
        return None
    try:
        return [File(name, **about) for name, about in json.loads(path.read_text(encoding="utf-8"))["files"].items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FetchError(f"{path} is damaged; --force fetches the corpus again") from None


# Command line


def show(corpus: Corpus, into: Path) -> str:
    """Returns what `--list` says of a corpus."""
    here = sum((into / corpus.name / file.name).exists() for file in corpus.files)
    where = "here" if here == len(corpus.files) else f"{here} of {len(corpus.files)} files here"
    if (local_folder() / corpus.name).is_dir():
        source = str(local_folder() / corpus.name)
    elif corpus.home:
        source = corpus.home
    elif corpus.form:
        source = f"the form at {corpus.form}, then --archives FOLDER"
    else:
        source = ", ".join(archive.url or archive.name for archive in corpus.archives)
    version = "the published one" if corpus.exact else f"perhaps {OTHER_VERSION}"
    megabytes = sum(file.bytes for file in corpus.files) / 1e6
    return (
        f"{corpus.name}: {corpus.about}; {megabytes:.1f} MB decompressed; {where}\n"
        f"    licence   {corpus.licence}\n    original  {corpus.original}\n    from      {source}\n"
        f"    version   {version}"
    )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fetch_data", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="corpora to fetch; --list shows them")
    parser.add_argument("--list", action="store_true", help="show what can be fetched and what is here, and exit")
    parser.add_argument("--force", action="store_true", help="fetch again, replacing the files that are here")
    parser.add_argument(
        "--from",
        dest="origin",
        metavar="FOLDER|URL",
        help="take ORIGIN/NAME/FILE from here, instead of $NMT_SHARED_DATA, ../shared/data or the corpus's public home",
    )
    parser.add_argument(
        "--archives",
        type=Path,
        metavar="FOLDER",
        help="convert the published archives in this folder, such as deu-eng.zip, instead of downloading them",
    )
    parser.add_argument("--into", type=Path, default=ROOT / "data", metavar="FOLDER", help="default: data")
    parser.add_argument(
        "--corpora",
        type=Path,
        default=ROOT / "data" / "corpora.json",
        metavar="FILE",
        help="table of the corpora; default: data/corpora.json",
    )
    parser.add_argument("--tries", type=int, default=5, help="tries for each file; default: %(default)s")
    parser.add_argument(
        "--pause",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="before the second try, doubled before each further one; default: %(default)g",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="of silence, after which a try has failed; default: %(default)g",
    )
    arguments = parser.parse_args(argv)
    if not arguments.names and not arguments.list:
        parser.error("name a corpus, or --list")
    if arguments.tries < 1 or arguments.pause < 0 or arguments.timeout <= 0:
        parser.error("--tries must be at least 1, --pause at least 0, --timeout above 0")
    if arguments.origin and arguments.archives:
        parser.error("--from takes files as they are, --archives converts: name one of them")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        corpora = read_table(arguments.corpora)
        if unknown := [name for name in arguments.names if name not in corpora]:
            raise FetchError(f"unknown corpus {unknown[0]!r}; there are {', '.join(corpora)}")
        if arguments.list:
            print("\n".join(show(corpus, arguments.into) for corpus in corpora.values()))
            return 0
        for name in arguments.names:
            if arguments.archives and not corpora[name].archives:
                raise FetchError(f"{name} is published as it is needed; --archives does not apply to it")
            patience = Patience(arguments.tries, arguments.pause, arguments.timeout)
            fetch(
                corpora[name],
                Request(arguments.into, arguments.origin, arguments.archives, arguments.force, patience),
            )
    except (FetchError, OSError) as error:
        print(f"fetch_data: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fetch_data: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
