"""A file is there whole or not at all, a row comes after its file, and no crash loses what was there before."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mww_ha import audio, store
from mww_ha.errors import ConfigError, ProjectError, StorageError
from mww_ha.schema import Clip, Label, Origin
from mww_ha.store import (
    Catalogue,
    Project,
    atomic_write,
    create_project,
    find_project,
    open_project,
    slugify,
    storage_errors,
    write_json,
    write_text,
)


def make_clip(number: int, **fields: object) -> Clip:
    values: dict[str, object] = {
        "id": f"{number:016x}",
        "path": f"audio/00/{number}.flac",
        "sha256": f"{number:064x}",
        "label": Label.WAKE,
        "origin": Origin.RECORDED,
        "duration_s": 1.5,
    }
    return Clip(**{**values, **fields})


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"half of the new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    write_text(path, "old")
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from mww_ha.store import atomic_write
        with atomic_write(Path({str(path)!r})) as file:
            file.write(b"new" * 100000)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_full_disk_is_said_with_the_name_of_the_file(tmp_path: Path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StorageError, match="no space left"), atomic_write(tmp_path / "clip.flac") as file:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")
        file.write(b"never")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_missing_permission_is_said_with_the_name_of_the_file(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="not allowed"):
        write_text(tmp_path / "file", "text")


def test_json_is_written_the_same_whatever_the_order_of_its_keys(tmp_path: Path):
    write_json(tmp_path / "a", {"x": 1, "y": [2]})
    write_json(tmp_path / "b", {"y": [2], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@given(st.text())
def test_a_slug_is_never_empty_and_safe_as_a_file_name(phrase: str):
    slug = slugify(phrase)
    assert slug
    assert slug == slugify(slug)
    assert all(c in "abcdefghijklmnopqrstuvwxyz0123456789_" for c in slug)


def test_a_slug_reads_like_the_phrase():
    assert slugify("  Hé, Küche!  ") == "he_kuche"
    assert slugify("Straße") == "strasse"


def test_clips_come_back_as_they_went_in_and_in_one_order(project: Project):
    clips = [
        make_clip(n, label=Label.SPEECH if n % 2 else Label.WAKE, speaker=f"person {n}", text="Grüße") for n in range(9)
    ]
    assert project.catalogue.add_clips(reversed(clips)) == 9
    assert project.catalogue.clips() == clips
    assert project.catalogue.clips(Label.WAKE) == clips[::2]
    assert project.catalogue.clips(Label.WAKE, origin=Origin.SYNTHESIZED) == []


def test_a_clip_that_is_known_stays_as_it_is(project: Project):
    project.catalogue.add_clips([make_clip(1, speaker="anna")])
    assert project.catalogue.add_clips([make_clip(1, speaker="bob"), make_clip(2)]) == 1
    assert [c.speaker for c in project.catalogue.clips()] == ["anna", ""]


def test_a_transaction_that_fails_leaves_no_row(project: Project):
    def clips():
        yield make_clip(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        project.catalogue.add_clips(clips())
    with pytest.raises(ZeroDivisionError), project.catalogue.transaction():
        project.catalogue._db.execute("INSERT INTO stages VALUES ('a', 'b', '{}', 'now')")
        raise ZeroDivisionError
    assert project.catalogue.clips() == []
    assert project.catalogue.stage("a") is None


def test_a_kill_after_rows_were_added_keeps_them_and_the_catalogue_whole(tmp_path: Path):
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from mww_ha.store import Catalogue
        catalogue = Catalogue(Path({str(tmp_path / "c.sqlite")!r}))
        catalogue.put_run("one", "2026-01-01T00:00:00+00:00", {{"id": "one"}})
        catalogue._db.execute("BEGIN IMMEDIATE")
        catalogue._db.execute("INSERT INTO runs VALUES ('two', 'x', '{{}}')")
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == -signal.SIGKILL
    catalogue = Catalogue(tmp_path / "c.sqlite")
    assert catalogue.runs() == [{"id": "one"}]
    assert catalogue._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    catalogue.close()


def test_several_writers_at_once_lose_nothing(tmp_path: Path):
    Catalogue(tmp_path / "c.sqlite").close()

    def write(part: int) -> None:
        catalogue = Catalogue(tmp_path / "c.sqlite")
        for n in range(20):
            catalogue.add_clips([make_clip(100 * part + n)])
        catalogue.close()

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    catalogue = Catalogue(tmp_path / "c.sqlite")
    assert len(catalogue.clips()) == 80
    catalogue.close()


def test_two_that_open_a_new_project_at_once_both_find_a_whole_catalogue(tmp_path: Path):
    failures: list[Exception] = []

    def open_it(path: Path) -> None:
        try:
            Catalogue(path).close()
        except (sqlite3.Error, StorageError) as error:
            failures.append(error)

    for number in range(20):
        threads = [threading.Thread(target=open_it, args=(tmp_path / f"c{number}.sqlite",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


_ANY = {"TEXT": "x", "INTEGER": 1, "REAL": 1.5, "BLOB": b"x"}


def shape_of(path: Path) -> set[str]:
    """What SQLite says of tables and indexes."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {
            " ".join(row[0].split()) for row in database.execute("SELECT sql FROM sqlite_schema WHERE sql NOT NULL")
        }


@pytest.mark.parametrize("version", range(1, len(store._MIGRATIONS)))
def test_a_catalogue_of_any_older_version_opens_with_every_row_and_looks_like_a_new_one(tmp_path: Path, version: int):
    path = tmp_path / "old.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as old:
        for script in store._MIGRATIONS[:version]:
            old.executescript(script)
        old.execute(f"PRAGMA user_version={version}")
        tables = [name for (name,) in old.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        tables = [name for name in tables if not name.startswith("sqlite_")]
        rows: dict[str, tuple[Any, ...]] = {}
        for table in tables:
            rows[table] = tuple(_ANY[kind] for _, _, kind, *_ in old.execute(f"PRAGMA table_info({table})"))
            old.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[table]))})", rows[table])
        old.commit()
    catalogue = Catalogue(path)
    assert catalogue.check_integrity() == []
    assert catalogue.people() == []
    catalogue.close()
    Catalogue(tmp_path / "new.sqlite").close()
    assert shape_of(path) == shape_of(tmp_path / "new.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as opened:
        for table, row in rows.items():
            assert opened.execute(f"SELECT * FROM {table}").fetchall() == [row], table


def test_a_catalogue_of_a_newer_version_is_refused(project: Project):
    project.catalogue._db.execute("PRAGMA user_version=999")
    with pytest.raises(ProjectError, match="newer"):
        Catalogue(project.catalogue.path)


def test_a_stage_is_remembered_with_its_inputs_and_its_result(project: Project):
    assert project.catalogue.stage("prepare") is None
    project.catalogue.finish_stage("prepare", "abc", {"id": "x"})
    project.catalogue.finish_stage("prepare", "def", {"id": "y"})
    assert project.catalogue.stage("prepare") == ("def", {"id": "y"})


def test_runs_are_listed_newest_first_and_updated_in_place(project: Project):
    for n, outcome in ((1, "running"), (2, "done"), (1, "stopped")):
        project.catalogue.put_run(f"run{n}", f"2026-01-0{n}T00:00:00+00:00", {"id": f"run{n}", "outcome": outcome})
    assert project.catalogue.runs() == [{"id": "run2", "outcome": "done"}, {"id": "run1", "outcome": "stopped"}]


def test_a_project_is_found_from_a_folder_below_it(project: Project):
    below = project.root / "a" / "b"
    below.mkdir(parents=True)
    assert find_project(below) == project.root
    with pytest.raises(ProjectError, match=r"project\.yaml"):
        find_project(project.root.parent)


def test_making_a_project_again_opens_it_and_another_phrase_is_refused(project: Project):
    again = create_project(project.root, "  hey   kitchen ")
    assert again.settings == project.settings
    again.catalogue.close()
    with pytest.raises(ProjectError, match="hey kitchen"):
        create_project(project.root, "hey bathroom")


@pytest.mark.parametrize("option", [{"effort": "best"}, {"language": "de"}])
def test_an_option_that_the_existing_project_has_not_is_refused_with_the_way_out(
    project: Project, option: dict[str, str]
):
    path = project.root / "project.yaml"
    before = path.read_text()
    (key, value), has = next(iter(option.items())), {"effort": "quick", "language": "en"}
    with pytest.raises(
        ProjectError, match=f"exists already, with {key} {has[key]}, and {value} is asked for"
    ) as caught:
        create_project(project.root, "hey kitchen", **option)
    assert f"--set {key}={value}" in caught.value.hint
    create_project(project.root, "hey kitchen", **{key: has[key]}).catalogue.close()
    assert path.read_text() == before


def test_a_project_without_a_phrase_is_never_made(tmp_path: Path):
    with pytest.raises(ConfigError):
        create_project(tmp_path / "p", "  ")
    assert not (tmp_path / "p").exists()


def test_overrides_reach_the_settings_of_an_opened_project(project: Project):
    opened = open_project(project.root, {"split.salt": "x"})
    assert opened.settings.split.salt == "x"
    assert dataclasses.replace(opened.settings.split, salt="") == project.settings.split
    opened.catalogue.close()


def test_clips_are_found_by_their_ids(project: Project):
    clips = [
        audio.add_clip(project.root, np.full(100, value, np.int16), label=Label.NOISE, origin=Origin.IMPORTED)
        for value in (1, 2)
    ]
    project.catalogue.add_clips(clips)
    assert project.catalogue.clips_by_id([clips[1].id, "0123456789abcdef"]) == {clips[1].id: clips[1]}
    assert project.catalogue.clips_by_id([]) == {}


@pytest.mark.parametrize("place", ["/dev/null/a", "/dev/null/a/b", "/proc/a/b"])
def test_where_no_folder_can_be_made_that_is_said(place: str):
    with pytest.raises(StorageError, match=r"cannot write .*(/dev/null is not a folder|can be made in /proc)"):
        write_text(Path(place, "page.html"), "<p>")


def test_what_is_no_plain_file_is_not_replaced(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(StorageError, match=f"{name} is there already and is no plain file"):
            write_text(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_file_of_ours_that_is_missing_stays_a_defect(tmp_path: Path):
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path / "a"):
        (tmp_path / "b").read_bytes()
