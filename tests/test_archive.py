"""What a household cannot make again fits into one file and comes out of it as it was; nothing else comes out."""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import json
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_wake
from lived_in import Household, make_household
from test_cli import Ask, ask  # noqa: F401

from mww_ha import archive, audio
from mww_ha.archive import Reader, read_archive, write_archive
from mww_ha.devices.known import load_devices
from mww_ha.errors import DataError, InputError, MwwError, ProjectError, StorageError
from mww_ha.schema import Label, Origin
from mww_ha.store import Project, change_settings, create_project, open_project

Entries = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Household:
    """Only to be read."""
    made = make_household(tmp_path_factory.mktemp("archive") / "home", tmp_path_factory.getbasetemp(), waiting=3)
    change_settings(made.root, {"flash.builder_url": "http://anna:geheim@192.168.1.9:6052"})
    (made.root / "esphome").mkdir(exist_ok=True)
    (made.root / "esphome" / "secrets.yaml").write_text('wifi_password: "swordfish"\n')
    return made


@pytest.fixture(scope="module")
def packed(household: Household) -> bytes:
    project = open_project(household.root)
    content = b"".join(write_archive(project))
    project.catalogue.close()
    return content


def unpack(content: bytes, root: Path, piece: int = 100_000) -> archive.TakenOver:
    with Reader(root) as reader:
        for place in range(0, len(content), piece):
            reader.take(content[place : place + piece])
        return reader.finish()


def entries_of(content: bytes) -> Entries:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [(info, tar.extractfile(info).read() if info.isreg() else b"") for info in tar]


def pack(entries: Entries) -> bytes:
    """With a right end, whatever the entries are."""
    packed = [p for info, content in entries if info.name != "end.json" for p in (_with_size(info, content),)]
    body = b"".join(packed)
    end = json.dumps({"files": len(packed), "sha256": hashlib.sha256(body).hexdigest()}).encode()
    return body + _with_size(tarfile.TarInfo("end.json"), end) + bytes(1024)


def _with_size(info: tarfile.TarInfo, content: bytes) -> bytes:
    if info.isreg():
        info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def regular(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


# --- there and back --------------------------------------------------------------------------------------------------


def rows_of(root: Path) -> dict[str, list[Any]]:
    with sqlite3.connect(root / "catalogue.sqlite") as database:
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows = {name: sorted(database.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}
    database.close()
    return rows


def test_a_household_comes_out_as_it_went_in(household: Household, packed: bytes, tmp_path: Path):
    told = unpack(packed, tmp_path / "new", piece=7777)
    assert rows_of(tmp_path / "new") == rows_of(household.root)
    for folder in ("audio", "captures", "models", "reports"):
        there, here = household.root / folder, tmp_path / "new" / folder
        names = sorted(p.relative_to(there).as_posix() for p in there.rglob("*") if p.is_file())
        assert names == sorted(p.relative_to(here).as_posix() for p in here.rglob("*") if p.is_file()) != [], folder
        assert all((there / name).read_bytes() == (here / name).read_bytes() for name in names)
    old, new = open_project(household.root), open_project(tmp_path / "new")
    assert load_devices(new) == load_devices(old)
    assert (told.phrase, told.clips, told.models) == (old.settings.phrase, len(old.catalogue.clips()), 1)
    assert (told.captures, told.missing, told.size) == (15, 0, len(packed))
    assert new.settings.train == old.settings.train
    assert new.catalogue.check_integrity() == []
    run = f"runs/{old.catalogue.runs()[0]['id']}"
    assert (tmp_path / "new" / run / "candidate.tflite").exists(), "a retraining starts from it"
    for project in (old, new):
        project.catalogue.close()
    assert [p.name for p in (tmp_path / "new").iterdir() if p.name.startswith(".")] == []


def test_no_secret_and_nothing_that_can_be_made_again_is_in_it(household: Household, packed: bytes, tmp_path: Path):
    names = {info.name for info, _ in entries_of(packed)}
    assert not any(name.startswith(("features", "esphome", "service", ".")) for name in names)
    assert b"swordfish" not in packed
    assert b"geheim" not in packed
    assert "geheim" in (household.root / "project.yaml").read_text(), "the project itself keeps it"
    assert not list(household.root.glob(".export-*"))


def test_programs_and_files_of_another_machine_are_left_out_and_named(household: Household, tmp_path: Path):
    shutil.copytree(household.root, tmp_path / "old", ignore=shutil.ignore_patterns("features"))
    change_settings(tmp_path / "old", {"flash.esphome": "/usr/bin/evil", "home_assistant.token_file": "/etc/shadow"})
    project = open_project(tmp_path / "old")
    told = unpack(b"".join(write_archive(project)), tmp_path / "new")
    project.catalogue.close()
    assert told.left_out == ("flash.esphome", "home_assistant.token_file")
    made = open_project(tmp_path / "new")
    assert (made.settings.flash.esphome, made.settings.home_assistant.token_file) == ("", "")
    made.catalogue.close()


def test_an_archive_names_neither_the_home_assistant_that_says_who_may_nor_the_broker_that_may_flash(
    household: Household, tmp_path: Path
):
    shutil.copytree(household.root, tmp_path / "old", ignore=shutil.ignore_patterns("features"))
    change_settings(tmp_path / "old", {"home_assistant.url": "http://evil.example", "mqtt.host": "evil.example"})
    project = open_project(tmp_path / "old")
    told = unpack(b"".join(write_archive(project)), tmp_path / "new")
    project.catalogue.close()
    assert {"home_assistant.url", "mqtt.host"} <= set(told.left_out)
    made = open_project(tmp_path / "new")
    assert (made.settings.home_assistant.url, made.settings.mqtt.host) == ("", "")
    made.catalogue.close()


def test_of_two_archives_at_once_one_gets_in_whole(packed: bytes, tmp_path: Path):
    """The other one hears that there is a project, before it has replaced anything."""
    root = tmp_path / "new"
    create_project(root, "hey kitchen").catalogue.close()
    together = threading.Barrier(4)

    def bring(_: int) -> MwwError | None:
        with Reader(root) as reader:
            reader.take(packed)
            together.wait()
            try:
                reader.finish()
            except MwwError as error:
                return error
        return None

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        errors = [error for error in pool.map(bring, range(4)) if error is not None]
    assert [(type(error), "holds a project already" in str(error)) for error in errors] == [(DataError, True)] * 3


def test_an_empty_project_takes_it_over_while_others_have_it_open(packed: bytes, project: Project):
    assert project.catalogue.clips() == []
    unpack(packed, project.root)
    assert len(project.catalogue.clips()) > 10
    assert open_project(project.root).settings.phrase != "hey kitchen"


def test_a_project_in_which_something_was_done_is_not_replaced(packed: bytes, project: Project):
    rng = np.random.default_rng(1)
    clip = audio.add_clip(project.root, toy_wake.whistle(rng), label=Label.WAKE, origin=Origin.RECORDED)
    project.catalogue.add_clips([clip])
    with pytest.raises(DataError, match="holds a project already"):
        unpack(packed, project.root)
    assert [c.id for c in project.catalogue.clips()] == [clip.id]
    assert not list(project.root.glob(".import-*"))


def test_a_recording_that_begins_while_the_archive_comes_is_not_lost(packed: bytes, project: Project):
    rng = np.random.default_rng(1)
    with Reader(project.root) as reader:
        reader.take(packed)
        clip = audio.add_clip(project.root, toy_wake.whistle(rng), label=Label.WAKE, origin=Origin.RECORDED)
        project.catalogue.add_clips([clip])
        with pytest.raises(DataError):
            reader.finish()
    assert [c.id for c in project.catalogue.clips()] == [clip.id]


def test_sound_that_expired_while_the_archive_was_made_is_counted_and_not_named(packed: bytes, tmp_path: Path):
    entries = entries_of(packed)
    sounds = [info.name for info, _ in entries if info.name.startswith("captures/")]
    clips = [info.name for info, _ in entries if info.name.startswith("audio/")]
    told = unpack(pack([e for e in entries if e[0].name not in (sounds[0], clips[0])]), tmp_path / "new")
    assert told.missing == 2
    project = open_project(tmp_path / "new")
    assert sum(not capture.path for capture in project.catalogue.captures()) == 1
    assert clips[0] not in {clip.path for clip in project.catalogue.clips()}
    project.catalogue.close()


def test_an_interrupted_import_leaves_an_empty_project_that_can_take_it_over_again(packed: bytes, tmp_path: Path):
    root = tmp_path / "new"
    with Reader(root) as reader:
        reader.take(packed)
        place = next(root.glob(".import-*"))
        shutil.copytree(place / "audio", root / "audio")  # as far as a crash may come: files, no rows
        shutil.copy(place / "project.yaml", root)
    assert unpack(packed, root).clips > 0


# --- what else may come ----------------------------------------------------------------------------------------------


def link(name: str, kind: bytes, target: str = "/etc/passwd") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (regular("/etc/cron.d/x"), "does not belong"),
        (regular("../outside"), "does not belong"),
        (regular("audio/../../outside"), "does not belong"),
        (regular("audio/..\\outside"), "does not belong"),
        (regular("audio/.hidden"), "does not belong"),
        (regular("features/x"), "does not belong"),
        (regular("esphome/secrets.yaml"), "does not belong"),
        (regular("service/service.sqlite"), "does not belong"),
        (regular("audio/a/b/c/d/e"), "does not belong"),
        (regular("audio/ü"), "does not belong"),
        (regular("project.yaml"), "twice"),
        (regular("PROJECT.YAML"), "does not belong"),
        (link("audio/link", tarfile.SYMTYPE), "not a plain file"),
        (link("audio/link", tarfile.LNKTYPE), "not a plain file"),
        (link("audio/disk", tarfile.BLKTYPE), "not a plain file"),
        (link("audio/tty", tarfile.CHRTYPE), "not a plain file"),
        (link("audio/pipe", tarfile.FIFOTYPE), "not a plain file"),
        (link("audio/folder", tarfile.DIRTYPE), "not a plain file"),
        (link("audio/sparse", tarfile.GNUTYPE_SPARSE), "not a plain file"),
        (link("audio/long", tarfile.XHDTYPE), "not a plain file"),
    ],
)
def test_what_does_not_belong_into_an_archive_is_refused_and_leaves_nothing(
    packed: bytes, tmp_path: Path, extra: tuple[tarfile.TarInfo, bytes], says: str
):
    with pytest.raises(ProjectError, match=says):
        unpack(pack([*entries_of(packed), extra]), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_names_that_differ_by_case_alone_and_files_that_are_folders_are_refused(packed: bytes, tmp_path: Path):
    entries = entries_of(packed)
    for more, says in (
        ([regular("audio/x"), regular("audio/X")], "twice"),
        ([regular("models/x"), regular("models/x/y")], "a file and a folder"),
    ):
        with pytest.raises(ProjectError, match=says):
            unpack(pack([*entries, *more]), tmp_path / "new")


def test_what_would_fill_the_disk_is_refused_before_it_comes(packed: bytes, tmp_path: Path):
    info = tarfile.TarInfo("audio/bomb.flac")
    info.size = shutil.disk_usage(tmp_path).free + (1 << 30)
    head = _with_size(*entries_of(packed)[0])
    with Reader(tmp_path / "new") as reader:
        reader.take(head)
        with pytest.raises(StorageError, match="no space left"):
            reader.take(info.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize("name", ["project.yaml", "devices.yaml", "mww-ha.json"])
def test_texts_may_not_be_of_any_size(packed: bytes, tmp_path: Path, name: str):
    entries = [(info, b"#" * (1 << 21) if info.name == name else content) for info, content in entries_of(packed)]
    with pytest.raises(ProjectError, match="too large"):
        unpack(pack(entries), tmp_path / "new")


def test_a_cut_or_damaged_archive_is_refused(packed: bytes, tmp_path: Path):
    for content, says in (
        (b"", "cut off"),
        (packed[:-1], "cut off"),
        (packed[: len(packed) // 2], "cut off"),
        (packed + b"more", "follows"),
        (bytes(4096), "ends too early"),
        (b"PK\x03\x04" + bytes(1000), "not an archive of a project"),
        (b"\x1f\x8b" + bytes(1000), "not an archive of a project"),
        (pack([e for e in entries_of(packed) if e[0].name != "mww-ha.json"]), "not an archive of a project"),
        (pack([e for e in entries_of(packed) if e[0].name != "catalogue.sqlite"]), "holds no catalogue"),
        (pack([e for e in entries_of(packed) if e[0].name != "project.yaml"]), "holds no project.yaml"),
    ):
        with pytest.raises(ProjectError, match=says):
            unpack(content, tmp_path / "new")
    place = packed.index(b"fLaC") + 600
    turned = packed[:place] + bytes([packed[place] ^ 1]) + packed[place + 1 :]
    with pytest.raises(ProjectError, match="digest"):
        unpack(turned, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_archive_of_a_newer_version_says_so(packed: bytes, tmp_path: Path):
    head = json.dumps({"format": 2, "mww_ha": "9.0"}).encode()
    entries = [(info, head if info.name == "mww-ha.json" else content) for info, content in entries_of(packed)]
    with pytest.raises(ProjectError, match="newer mww-ha"):
        unpack(pack(entries), tmp_path / "new")


def with_catalogue(packed: bytes, folder: Path, change: Callable[[sqlite3.Connection], object]) -> bytes:
    entries = entries_of(packed)
    path = folder / "catalogue.sqlite"
    path.write_bytes(next(content for info, content in entries if info.name == path.name))
    with sqlite3.connect(path) as database:
        change(database)
    database.close()
    return pack([(info, path.read_bytes() if info.name == path.name else content) for info, content in entries])


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE clips SET path = '../../etc/passwd' WHERE id = (SELECT id FROM clips LIMIT 1)", "no file of it"),
        ("UPDATE captures SET path = '/etc/passwd' WHERE id = (SELECT id FROM captures LIMIT 1)", "no file of it"),
        ("UPDATE models SET document = json_set(document, '$.manifest_path', '/etc/x.json')", "no file of it"),
        ("UPDATE models SET document = json_set(document, '$.id', '../../x')", "which is none"),
        ("UPDATE runs SET document = json_set(document, '$.id', '../../x')", "which is none"),
        ("UPDATE runs SET document = json_set(document, '$.feature_set', '/etc')", "which is none"),
        ("UPDATE models SET document = 'nonsense'", "damaged"),
        ("UPDATE clips SET label = 'nonsense'", "damaged"),
        ("CREATE TRIGGER t AFTER INSERT ON clips BEGIN DELETE FROM people; END", "holds a trigger"),
        ("CREATE VIEW v AS SELECT 1", "holds a view"),
        ("CREATE VIRTUAL TABLE v USING fts5(a)", "holds a virtual table"),
        ("DROP TABLE people", "damaged"),
        ("PRAGMA user_version=9999", "newer mww-ha"),
    ],
)
def test_a_catalogue_that_reaches_out_or_is_none_is_refused(packed: bytes, tmp_path: Path, sql: str, says: str):
    content = with_catalogue(packed, tmp_path, lambda database: database.execute(sql))
    with pytest.raises(MwwError, match=says):
        unpack(content, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_files_that_the_archive_wants_removed_are_not(packed: bytes, tmp_path: Path):
    content = with_catalogue(packed, tmp_path, lambda db: db.execute("INSERT INTO removals VALUES ('../keep')"))
    (tmp_path / "keep").write_text("mine")
    unpack(content, tmp_path / "new")
    project = open_project(tmp_path / "new")
    project.catalogue.sweep(project.root)
    project.catalogue.close()
    assert (tmp_path / "keep").exists()


def test_a_catalogue_of_an_older_version_is_brought_up_to_date(packed: bytes, tmp_path: Path):
    def age(database: sqlite3.Connection) -> None:
        for table in ("people", "sessions", "transcripts"):
            database.execute(f"DROP TABLE {table}")
        for index in ("clips_by_speaker", "captures_by_session"):
            database.execute(f"DROP INDEX {index}")
        database.execute("PRAGMA user_version=3")

    unpack(with_catalogue(packed, tmp_path, age), tmp_path / "new")
    project = open_project(tmp_path / "new")
    assert (len(project.catalogue.captures()), project.catalogue.people()) == (15, [])
    project.catalogue.close()


def test_settings_that_mean_nothing_are_named(packed: bytes, tmp_path: Path):
    bad = b"phrase: x y\ntrain: {stepz: 3}\n"
    entries = [(info, bad if info.name == "project.yaml" else content) for info, content in entries_of(packed)]
    with pytest.raises(ProjectError, match=r"in the archive: project.yaml: unknown key train.stepz") as caught:
        unpack(pack(entries), tmp_path / "new")
    assert "train.steps" in caught.value.hint


def test_noise_never_ends_in_anything_but_an_error_of_ours(packed: bytes, tmp_path: Path):
    rng = np.random.default_rng(4)
    for number in range(25):
        place = int(rng.integers(30_000 if number % 2 else len(packed)))
        noise = rng.bytes(int(rng.integers(1, 1500)))
        with pytest.raises(MwwError):
            unpack(packed[:place] + noise + packed[place + len(noise) :], tmp_path / "new")
        assert list((tmp_path / "new").iterdir()) == []


# --- from the command line -------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nothing\.tar cannot be read"):
        read_archive(tmp_path / "nothing.tar", tmp_path / "new")


def test_the_name_of_an_archive_says_what_and_when(tmp_path: Path):
    project = create_project(tmp_path / "x", "Hey Küche!")
    assert archive.name_archive(project, "2026-11-27") == "hey_kuche-2026-11-27.mww-ha.tar"
    project.catalogue.close()


def test_the_command_line_takes_a_project_out_and_into_a_new_folder(
    ask: Ask,  # noqa: F811
    household: Household,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    file = tmp_path / "whistle.mww-ha.tar"
    out = ask("export-project", str(file), "--project", str(household.root))
    assert (out.code, f"{file}: " in out.out) == (0, True), out
    monkeypatch.chdir(tmp_path)
    taken = ask("import-project", str(file), "--json")
    assert taken.code == 0, taken
    assert json.loads(taken.out.splitlines()[-1])["result"]["missing"] == 0
    project = open_project(tmp_path / "whistle")
    assert project.catalogue.models()[0]["id"] == household.model
    project.catalogue.close()
    again = ask("import-project", str(file))
    assert (again.code, "holds a project already" in again.err) == (3, True)


def test_a_folder_may_be_named_from_where_one_stands(
    ask: Ask,  # noqa: F811
    packed: bytes,
    tmp_path: Path,
):
    (tmp_path / "home.mww-ha.tar").write_bytes(packed)
    taken = ask("import-project", "home.mww-ha.tar", "--project", "new/place")
    assert taken.code == 0, taken
    assert (tmp_path / "new" / "place" / "catalogue.sqlite").is_file()


def test_a_mistake_of_ours_is_not_called_a_damaged_archive(
    packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stumble(_: Path) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr(archive, "_check_schema", stumble)
    with pytest.raises(ValueError, match="a mistake"):
        unpack(packed, tmp_path / "new")


def test_an_archive_replaces_an_older_one_and_nothing_else(
    ask: Ask,  # noqa: F811
    project: Project,
    tmp_path: Path,
):
    for number in (1, 2):
        assert ask("export-project", "home.tar", "--project", str(project.root)).code == 0, number
    (tmp_path / "letter.txt").write_text("Dear Anna")
    (tmp_path / "link").symlink_to(project.root / "project.yaml")
    before = (project.root / "project.yaml").read_bytes()
    for name, says in (
        ("letter.txt", "letter.txt is there already and is no archive"),
        ("/dev/null", "/dev/null is there already"),
        ("project/project.yaml", "where the project keeps its own files"),
        ("link", "where the project keeps its own files"),
        ("project/devices.yaml", "where the project keeps its own files"),
        ("project/catalogue.sqlite-wal", "where the project keeps its own files"),
        ("project/audio/home.tar", "where the project keeps its own files"),
        ("nowhere/home.tar", "there is no folder nowhere"),
    ):
        refused = ask("export-project", name, "--project", "project")
        assert refused.code == 2, name
        assert says in refused.err
        assert "name another file, such as hey_kitchen-20" in refused.err
    assert (tmp_path / "letter.txt").read_text() == "Dear Anna"
    assert (project.root / "project.yaml").read_bytes() == before
    assert not (tmp_path / "nowhere").exists()
    assert ask("export-project", "project/home.mww-ha.tar", "--project", "project").code == 0
