"""A public corpus arrives whole and unchanged or not at all, whatever the network does."""

import dataclasses
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

from mww_ha import store
from mww_ha.errors import DataError, InputError, OfflineError, StorageError
from mww_ha.record import corpora
from mww_ha.schema import Label

soundfile = pytest.importorskip("soundfile")


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves one body. Paths: /ok, /norange (ignores ranges), /drop (ends early once), /gone (404)."""

    def do_GET(self):
        server = self.server
        range_header = self.headers.get("Range")
        server.log.append((self.path, range_header))
        kind = self.path.split("/")[1]
        if kind == "gone":
            self.send_error(404)
            return
        body, start = server.body, 0
        if range_header and kind != "norange":
            start = int(range_header.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if kind == "drop" and server.drops > 0:
            server.drops -= 1
            self.wfile.write(body[start : start + len(body) // 3])
            self.close_connection = True
            return
        self.wfile.write(body[start:])

    def log_message(self, *args):
        pass


@contextmanager
def serving(body, drops=0):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.body, server.drops, server.log = body, drops, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def corpus(*urls, **changes):
    made = corpora.Corpus(
        name="toy-one",
        what="a toy",
        licence="CC0-1.0",
        megabytes=1,
        urls=urls,
        parts=(corpora.CorpusPart(folder="Toy/speech*", label=Label.SPEECH),),
        speaker=r"/(\d+)-",
        language="en",
    )
    return dataclasses.replace(made, **changes)


BODY = np.random.default_rng(1).bytes(900_000)


def test_an_archive_is_fetched_once_and_noted_in_the_ledger(tmp_path):
    told = []
    with serving(BODY) as (server, base):
        wanted = corpus(f"{base}/ok/a.bin")
        path = corpora.download(wanted, tmp_path / "c", report=told.append)
        assert corpora.download(wanted, tmp_path / "c") == path
        assert len(server.log) == 1
    assert path.read_bytes() == BODY
    entry = corpora.read_ledger(tmp_path / "c")["toy-one"]
    assert entry.sha256 == hashlib.sha256(BODY).hexdigest()
    assert (entry.url, entry.licence, entry.bytes) == (wanted.urls[0], "CC0-1.0", len(BODY))
    assert (told[-1].done, told[-1].total) == (len(BODY), len(BODY))
    assert not list(path.parent.glob("*.part"))


@pytest.mark.parametrize("kind", ["ok", "norange"])
def test_a_download_goes_on_where_it_stopped_or_starts_again_if_the_server_cannot(tmp_path, kind):
    (tmp_path / "a.bin.part").write_bytes(BODY[:400_000])
    with serving(BODY) as (server, base):
        path = corpora.download(corpus(f"{base}/{kind}/a.bin"), tmp_path)
        assert server.log == [(f"/{kind}/a.bin", "bytes=400000-")]
    assert path.read_bytes() == BODY


def test_a_connection_that_drops_is_taken_up_again(tmp_path):
    with serving(BODY, drops=2) as (server, base):
        path = corpora.download(corpus(f"{base}/drop/a.bin"), tmp_path)
        assert [r for _, r in server.log] == [None, "bytes=300000-", "bytes=600000-"]
    assert path.read_bytes() == BODY


def test_a_part_that_was_complete_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.bin.part").write_bytes(BODY)
    with serving(BODY) as (_, base):
        assert corpora.download(corpus(f"{base}/ok/a.bin"), tmp_path).read_bytes() == BODY


def test_a_part_of_something_longer_is_thrown_away(tmp_path):
    (tmp_path / "a.bin.part").write_bytes(BODY + b"more")
    with serving(BODY) as (_, base):
        assert corpora.download(corpus(f"{base}/ok/a.bin"), tmp_path).read_bytes() == BODY


def test_the_next_mirror_is_tried_when_one_fails(tmp_path):
    with serving(BODY) as (_, base):
        wanted = corpus("http://127.0.0.1:9/a.bin", f"{base}/gone/a.bin", f"{base}/ok/a.bin")
        assert corpora.download(wanted, tmp_path).read_bytes() == BODY
    assert corpora.read_ledger(tmp_path)["toy-one"].url == f"{base}/ok/a.bin"


def test_no_answer_from_any_mirror_is_an_offline_error_that_names_them(tmp_path):
    wanted = corpus("http://127.0.0.1:9/a.bin", "http://no-such-host.invalid/a.bin")
    with pytest.raises(OfflineError, match=r"127\.0\.0\.1:9/a\.bin.*no-such-host") as caught:
        corpora.download(wanted, tmp_path, timeout_s=2)
    assert "goes on where it stopped" in caught.value.hint
    assert corpora.read_ledger(tmp_path) == {}


def test_a_changed_archive_is_refused_and_never_takes_the_place_of_the_first(tmp_path):
    with serving(BODY) as (server, base):
        wanted = corpus(f"{base}/ok/a.bin")
        path = corpora.download(wanted, tmp_path)
        path.unlink()
        server.body = BODY[:-1] + bytes([BODY[-1] ^ 1])
        with pytest.raises(DataError, match="SHA-256 differs") as caught:
            corpora.download(wanted, tmp_path)
    assert "delete its entry in corpora.json" in caught.value.hint
    assert not path.exists()


def test_an_archive_damaged_on_the_disk_is_noticed(tmp_path):
    with serving(BODY) as (_, base):
        wanted = corpus(f"{base}/ok/a.bin")
        path = corpora.download(wanted, tmp_path)
        path.write_bytes(BODY[:-5])
        with pytest.raises(DataError, match="is not what was downloaded"):
            corpora.download(wanted, tmp_path)


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path):
    with serving(BODY) as (server, base):
        with pytest.raises(StorageError, match="toy-one needs"):
            corpora.download(corpus(f"{base}/ok/a.bin", megabytes=10**9), tmp_path)
        assert server.log == []


def test_a_damaged_ledger_is_named(tmp_path):
    (tmp_path / "corpora.json").write_text('{"toy": {"url": 1}}')
    with pytest.raises(InputError, match=r"corpora\.json is damaged"):
        corpora.read_ledger(tmp_path)


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
    return buffer.getvalue()


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [tar_of, zip_of])
@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"])
def test_a_name_that_leads_outside_is_refused(tmp_path, pack, name):
    (tmp_path / "a.bin").write_bytes(pack({"ok.txt": b"1", name: b"2"}))
    with pytest.raises(DataError, match="leads outside"):
        corpora.extract(tmp_path / "a.bin", tmp_path / "in" / "out")
    assert not list(tmp_path.rglob("evil*"))
    assert not (tmp_path / "in" / "out").exists()


def test_links_are_left_out(tmp_path):
    (tmp_path / "a.bin").write_bytes(tar_of({"d/link": "/etc/passwd", "d/file": b"1"}))
    corpora.extract(tmp_path / "a.bin", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out" / "d").iterdir()] == ["file"]


@pytest.mark.parametrize("keep", [0, 60, -5000])
def test_a_damaged_archive_is_an_error_and_leaves_no_folder(tmp_path, keep):
    whole = tar_of({"a": np.random.default_rng(1).bytes(50_000)})
    (tmp_path / "a.tar.gz").write_bytes(whole[:keep])
    with pytest.raises(DataError, match="is damaged"):
        corpora.extract(tmp_path / "a.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_a_corpus_is_imported_by_label_speaker_and_licence(tmp_path, pack):
    members = {"Toy/README": b"hello"}
    for number in (7, 8):
        buffer = io.BytesIO()
        soundfile.write(buffer, np.random.default_rng(number).normal(0, 0.1, 8000), 16000, format="WAV")
        members[f"Toy/speech-a/{number}-1.wav"] = buffer.getvalue()
    project = store.create_project(tmp_path / "p", "hey kitchen")
    with serving(pack(members)) as (_, base):
        result = corpora.import_corpus(project, corpus(f"{base}/ok/a.bin"), tmp_path / "c")
        again = corpora.import_corpus(project, corpus(f"{base}/ok/a.bin"), tmp_path / "c")
        with pytest.raises(DataError, match="holds no folder Other"):
            parts = (corpora.CorpusPart(folder="Other", label=Label.NOISE),)
            corpora.import_corpus(project, corpus(f"{base}/ok/a.bin", parts=parts), tmp_path / "c")
    assert (result.added, again.added, again.known) == (2, 0, 2)
    clips = project.catalogue.clips()
    project.catalogue.close()
    assert sorted((c.speaker, c.label, c.licence, c.language, c.source) for c in clips) == [
        ("toy:7", "speech", "CC0-1.0", "en", "toy-one/Toy/speech-a/7-1.wav"),
        ("toy:8", "speech", "CC0-1.0", "en", "toy-one/Toy/speech-a/8-1.wav"),
    ]


def test_every_corpus_of_the_table_says_what_a_user_needs_to_know():
    names = [c.name for c in corpora.CORPORA]
    assert len(set(names)) == len(names)
    assert {part.label for c in corpora.CORPORA for part in c.parts} == {Label.SPEECH, Label.NOISE, Label.RIR}
    for c in corpora.CORPORA:
        assert c.what, c.name
        assert c.licence.startswith(("CC BY 4.0", "Apache-2.0")), c.name
        assert c.megabytes > 0, c.name
        assert all(url.startswith(("https://", "http://")) for url in c.urls), c.name
        assert len({url.rpartition("/")[2] for url in c.urls}) == 1, c.name


def test_an_unknown_corpus_names_its_nearest():
    with pytest.raises(InputError) as caught:
        corpora.find_corpus("librispeech-dev-cleen")
    assert "librispeech-dev-clean" in caught.value.hint


def test_the_ledger_is_plain_json_with_licence_and_hash(tmp_path):
    with serving(BODY) as (_, base):
        corpora.download(corpus(f"{base}/ok/a.bin"), tmp_path)
    document = json.loads((tmp_path / "corpora.json").read_text())
    assert set(document["toy-one"]) == {"url", "licence", "bytes", "sha256", "date"}
