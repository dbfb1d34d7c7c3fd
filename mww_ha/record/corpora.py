"""Public speech, backgrounds and room responses: what there is, under which licence, and how it gets here.

The addresses and licences are those that the publishers name. Sizes are rounded and serve the check of free disk
space; the hash of an archive is recorded at its first download (``corpora.json``) and checked at every later one.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import http.client
import json
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from mww_ha import store
from mww_ha.errors import DataError, InputError, OfflineError, StorageError
from mww_ha.record.files import ImportResult, import_folder
from mww_ha.schema import Label, Progress, ProgressSink, no_progress

LEDGER_FILE = "corpora.json"

_CHUNK = 1 << 18
_ROUNDS = 3  # times that every mirror is tried before the download gives up
_TIMEOUT_S = 30.0
_SPACE_FACTOR = 2.5  # archive, its contents, and the project's clips


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusPart:
    """A folder of an archive that becomes clips. ``folder`` is a pattern (``*`` matches one name)."""

    folder: str
    label: Label


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A public archive."""

    name: str
    what: str
    licence: str
    megabytes: int  # of the archive, rounded
    urls: tuple[str, ...]  # mirrors, in the order they are tried
    parts: tuple[CorpusPart, ...]
    speaker: str = ""  # regular expression on the path inside the archive; group 1 names the speaker
    language: str = ""

    @property
    def file_name(self) -> str:
        """Of the archive."""
        return PurePosixPath(self.urls[0]).name


def _openslr(number: int, file: str) -> tuple[str, ...]:
    hosts = ("https://www.openslr.org", "https://us.openslr.org", "https://openslr.elda.org")
    return tuple(f"{host}/resources/{number}/{file}" for host in hosts)


def _librispeech(subset: str, megabytes: int, what: str, *, number: int = 12, file: str = "") -> Corpus:
    return Corpus(
        name=f"librispeech-{subset}",
        what=what,
        licence="CC BY 4.0",
        megabytes=megabytes,
        urls=_openslr(number, file or f"{subset}.tar.gz"),
        parts=(CorpusPart(folder="LibriSpeech/*", label=Label.SPEECH),),
        speaker=r"LibriSpeech/[^/]+/(\d+)/",
        language="en",
    )


CORPORA: tuple[Corpus, ...] = (
    _librispeech("dev-clean", 338, "read English books, 5.4 h, 40 people"),
    _librispeech("test-clean", 347, "read English books, 5.4 h, 40 people"),
    _librispeech("train-clean-100", 6400, "read English books, 100 h, 251 people"),
    _librispeech(
        "mini-dev", 127, "read English books, a small part of dev-clean", number=31, file="dev-clean-2.tar.gz"
    ),
    Corpus(
        name="speech-commands",
        what="single English words (yes, go, seven, ...), 105,000 clips of 1 s, 2,600 people",
        licence="CC BY 4.0",
        megabytes=2430,
        urls=(
            "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
            "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        ),
        parts=(
            CorpusPart(folder="_background_noise_", label=Label.NOISE),
            CorpusPart(folder="[a-z]*", label=Label.SPEECH),
        ),
        speaker=r"/([0-9a-f]{8})_nohash_",
        language="en",
    ),
    Corpus(
        name="rirs-noises",
        what="room impulse responses, measured and simulated (a part), and point-source noises",
        licence="Apache-2.0",
        megabytes=1310,
        urls=_openslr(28, "rirs_noises.zip"),
        parts=(
            CorpusPart(folder="RIRS_NOISES/real_rirs_isotropic_noises", label=Label.RIR),
            CorpusPart(folder="RIRS_NOISES/simulated_rirs/smallroom/Room00?", label=Label.RIR),
            CorpusPart(folder="RIRS_NOISES/simulated_rirs/mediumroom/Room00?", label=Label.RIR),
            CorpusPart(folder="RIRS_NOISES/pointsource_noises", label=Label.NOISE),
        ),
    ),
    Corpus(
        name="musan",
        what="music, noises and speech of many kinds, 109 h",
        licence="CC BY 4.0 (collection; each file's own licence is in its LICENSE files)",
        megabytes=11100,
        urls=_openslr(17, "musan.tar.gz"),
        parts=(
            CorpusPart(folder="musan/music", label=Label.NOISE),
            CorpusPart(folder="musan/noise", label=Label.NOISE),
            CorpusPart(folder="musan/speech", label=Label.SPEECH),
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """What was downloaded: kept in ``corpora.json`` for as long as the project uses it."""

    name: str
    url: str
    licence: str
    bytes: int
    sha256: str
    date: str  # ISO 8601, UTC, of the first download


def find_corpus(name: str, corpora: tuple[Corpus, ...] = CORPORA) -> Corpus:
    """The corpus called ``name``. Raises InputError with the nearest one."""
    for corpus in corpora:
        if corpus.name == name:
            return corpus
    names = [corpus.name for corpus in corpora]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    raise InputError(
        f"unknown corpus {name!r}", hint=f"did you mean {near[0]}?" if near else "use one of " + ", ".join(names)
    )


def read_ledger(folder: Path) -> dict[str, LedgerEntry]:
    """What was downloaded into ``folder`` before, by name; empty without a ledger. Raises InputError."""
    path = folder / LEDGER_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {name: LedgerEntry(name=name, **entry) for name, entry in document.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged: {error}", hint="restore it, or delete it to record the hashes anew"
        ) from None


def _write_ledger(folder: Path, ledger: dict[str, LedgerEntry]) -> None:
    document = {
        name: {"url": e.url, "licence": e.licence, "bytes": e.bytes, "sha256": e.sha256, "date": e.date}
        for name, e in ledger.items()
    }
    store.write_json(folder / LEDGER_FILE, document)


def download(
    corpus: Corpus, folder: Path, *, report: ProgressSink = no_progress, timeout_s: float = _TIMEOUT_S
) -> Path:
    """Fetches the archive into ``folder`` and returns its path; one that is there and has its hash is not fetched.

    A broken download goes on where it stopped (``.part``), from the same mirror or the next. The ledger row is written
    after the file. Raises StorageError (space is checked first), OfflineError when no mirror answers, DataError when
    the hash is not the one of the first download.
    """
    ledger = read_ledger(folder)
    path = folder / corpus.file_name
    known = ledger.get(corpus.name)
    if path.exists():
        _check_hash(path, known)
        if known is None:
            _record(corpus, corpus.urls[0], path, folder)
        return path
    with store.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    here = part.stat().st_size if part.exists() else 0
    wanted = max(0.0, corpus.megabytes * 1_000_000 * _SPACE_FACTOR - here)
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise StorageError(
            f"{corpus.name} needs {wanted / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB are free",
            hint="free some space, or choose a smaller corpus (mww-ha corpora list)",
        )
    url = _fetch(corpus, part, report, timeout_s)
    _check_hash(part, known)
    part.replace(path)
    if known is None:
        _record(corpus, url, path, folder)
    return path


def _record(corpus: Corpus, url: str, path: Path, folder: Path) -> None:
    ledger = read_ledger(folder)
    ledger[corpus.name] = LedgerEntry(
        name=corpus.name,
        url=url,
        licence=corpus.licence,
        bytes=path.stat().st_size,
        sha256=_file_digest(path),
        date=store.now(),
    )
    _write_ledger(folder, ledger)


def _check_hash(path: Path, known: LedgerEntry | None) -> None:
    if known is None or _file_digest(path) == known.sha256:
        return
    raise DataError(
        f"{path} is not what was downloaded on {known.date}: its SHA-256 differs from the one in {LEDGER_FILE}",
        hint=f"delete {path.name} and download again; if it differs again the publisher changed it: "
        f"check that it is what you want, then delete its entry in {LEDGER_FILE}",
    )


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(corpus: Corpus, part: Path, report: ProgressSink, timeout_s: float) -> str:
    """Fills ``part`` to the end and returns the address that gave the last byte."""
    reasons: dict[str, str] = {}
    for number in range(_ROUNDS):
        for url in corpus.urls:
            before = part.stat().st_size if part.exists() else 0
            try:
                _fetch_from(url, part, corpus, report, timeout_s)
                return url
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reasons[url] = str(getattr(error, "reason", "") or error) or type(error).__name__
                moved = part.exists() and part.stat().st_size > before
                report(Progress(stage="download", message=f"{url}: {reasons[url]}" + (", going on" if moved else "")))
        if number + 1 < _ROUNDS:
            time.sleep(0.2 * (number + 1))
    raise OfflineError(
        f"{corpus.name} could not be downloaded: " + "; ".join(f"{url}: {why}" for url, why in reasons.items()),
        hint="check the connection and run it again, it goes on where it stopped; or fetch the file by hand and put it "
        f"into {part.parent}",
    )


def _fetch_from(url: str, part: Path, corpus: Corpus, report: ProgressSink, timeout_s: float) -> None:
    """One attempt from one mirror, from the end of ``part`` if the server can. Raises what urllib raises."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "mww-ha", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_s)  # noqa: S310 — only addresses of CORPORA
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            there = error.headers.get("Content-Range", "").rpartition("/")[2]
            error.close()
            if there == str(have):
                return  # it was complete already
            part.unlink()
            raise ConnectionError(f"the part here has {have} bytes, the file there {there or '?'}") from None
        error.close()
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise ConnectionError("the server sent another range than asked for")
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length and length.isdigit() else 0
        told = 0.0
        with store.storage_errors(part), part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if time.monotonic() - told > 0.1:
                    told = time.monotonic()
                    report(Progress(stage="download", message=corpus.name, done=done, total=total, unit="bytes"))
        if total and done < total:
            raise ConnectionError(f"the connection ended after {done} of {total} bytes")
        report(Progress(stage="download", message=corpus.name, done=done, total=total or done, unit="bytes"))


def extract(archive: Path, folder: Path) -> None:
    """Unpacks plain files and folders of a tar or zip into ``folder``, which is complete or absent afterwards.

    Raises DataError for a damaged archive, and for one with a name that leads outside; links and devices are left out.
    """
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    with store.storage_errors(folder):
        try:
            partial.mkdir(parents=True)
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as zipped:
                    for info in zipped.infolist():
                        _place(partial, info.filename, archive, None if info.is_dir() else zipped.open(info))
            else:
                with tarfile.open(archive) as tar:
                    for member in tar:
                        if member.isfile() or member.isdir():
                            _place(partial, member.name, archive, tar.extractfile(member))
        except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{archive} is damaged: {error}", hint="delete it and download again") from None
        partial.replace(folder)


def _place(folder: Path, name: str, archive: Path, source: IO[bytes] | None) -> None:
    """Writes one member; a folder has no ``source``. Raises DataError for a name that leads outside."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if parts and (parts[0] == "/" or ".." in parts or ":" in parts[0]):
        raise DataError(
            f"{archive} holds a name that leads outside its folder: {name!r}", hint="delete it, do not use it"
        )
    target = folder.joinpath(*parts)
    if source is None:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file, _CHUNK)


def import_corpus(
    project: store.Project,
    corpus: Corpus,
    folder: Path,
    *,
    report: ProgressSink = no_progress,
    timeout_s: float = _TIMEOUT_S,
) -> ImportResult:
    """Downloads into ``folder``, unpacks beside it and imports each part by its label, with licence and speakers.

    Raises what ``download``, ``extract`` and ``import_folder`` raise; DataError when a part is not in the archive.
    """
    archive = download(corpus, folder, report=report, timeout_s=timeout_s)
    unpacked = folder / corpus.name
    extract(archive, unpacked)
    pattern = re.compile(corpus.speaker) if corpus.speaker else None

    def speaker(path: Path) -> str:
        match = pattern.search("/" + path.relative_to(unpacked).as_posix()) if pattern else None
        return f"{corpus.name.partition('-')[0]}:{match[1]}" if match else ""

    places: list[tuple[Path, Label]] = []
    for part in corpus.parts:
        found = sorted(place for place in unpacked.glob(part.folder) if place.is_dir())
        if not found:
            raise DataError(f"{archive} holds no folder {part.folder}", hint="the publisher changed it; report it")
        places += [(place, part.label) for place in found]
    results = [
        import_folder(
            project,
            place,
            label=label,
            speaker=speaker,
            licence=corpus.licence,
            language=corpus.language if label is Label.SPEECH else "",
            source=f"{corpus.name}/{place.relative_to(unpacked).as_posix()}",
            report=report,
        )
        for place, label in places
    ]
    return ImportResult(
        added=sum(r.added for r in results),
        known=sum(r.known for r in results),
        minutes=sum(r.minutes for r in results),
        rejected=tuple(item for r in results for item in r.rejected),
        skipped=sum(r.skipped for r in results),
        completed=sum(r.completed for r in results),
        differing=tuple(item for r in results for item in r.differing),
        relabelled=tuple(item for r in results for item in r.relabelled),
    )
