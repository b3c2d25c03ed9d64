"""The folder: whole files or none, and nothing changed in a folder that is not for this study."""

import itertools
import json
import os
import stat
from pathlib import Path

import pytest

from thalweg import ThalwegError
from thalweg.results import SIZES, ResultsFolder
from thalweg.results.folder import FORMAT, write_whole


def test_a_new_folder_is_made_with_its_parents(tmp_path, record):
    path = tmp_path / "a" / "b"
    folder = ResultsFolder.create(str(path))
    assert list(path.iterdir()) == []  # opened for writing, nothing written
    folder.write_manifest(command="study")
    folder.write(record())
    again = ResultsFolder.open(path)
    assert again.manifest == {"format": FORMAT, "size": "standard", "command": "study"}
    assert again.read("edge").to_json() == record().to_json()
    assert sorted(file.name for file in path.iterdir()) == ["edge.json", "manifest.json"]


def test_entries_are_added_to_the_manifest(folder):
    folder.write_manifest(command="again")
    manifest = ResultsFolder.create(folder.path, size="quick").manifest
    assert manifest == {**folder.manifest, "order": ["drift", "edge"], "command": "again"}


def test_names_are_in_the_order_of_the_study_and_others_behind(folder, record):
    for name in ("zebra", "drift", "aside"):
        folder.write(record(name))
    (folder.path / "report.html").write_text("page")
    (folder.path / "._drift.json").write_text("what some systems leave beside a file")
    assert ResultsFolder.open(folder.path).names() == ["drift", "edge", "aside", "zebra"]


def test_parts_of_a_killed_run_are_nobodys(tmp_path, folder):
    litter = ".x1.part"
    (folder.path / litter).write_text('{"name": "ed')
    assert folder.names() == ["edge"]
    assert ResultsFolder.create(folder.path, size="quick").read("edge").name == "edge"
    (tmp_path / "fresh").mkdir()  # killed while the very first file was written
    (tmp_path / "fresh" / litter).write_text("{")
    ResultsFolder.create(tmp_path / "fresh").write_manifest()
    assert ResultsFolder.open(tmp_path / "fresh").manifest["size"] == "standard"


@pytest.mark.parametrize("write", ["write", "write_manifest"])
@pytest.mark.parametrize("broken", ["replace", "fsync", "json"])
def test_a_write_that_fails_leaves_the_old_file(
    folder, record, bytes_of, monkeypatch, write, broken
):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    before = bytes_of(folder.path)
    bad = object() if broken == "json" else "again"
    if broken == "replace":
        monkeypatch.setattr(Path, "replace", full)
    if broken == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    wanted = (TypeError, "object") if broken == "json" else (ThalwegError, "run the same command")
    writes = {
        "write": lambda: folder.write(record(because=bad)),
        "write_manifest": lambda: folder.write_manifest(command=bad),
    }
    with pytest.raises(wanted[0], match=wanted[1]):
        writes[write]()
    monkeypatch.undo()
    assert bytes_of(folder.path) == before  # no half-written part beside it either


def test_a_broken_off_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_whole(file, "old")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, "new")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("file", "old")]


def test_a_file_can_be_read_by_others(tmp_path):
    write_whole(tmp_path / "file", "ε")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert (tmp_path / "file").read_text(encoding="utf-8") == "ε"


def manifest(text):
    return lambda path: (path / "manifest.json").write_text(text)


def alien(path):
    (path / "manifest.json").rename(path / "notes.txt")


DAMAGE = {
    "other format": (
        manifest('{"format": 99, "size": "quick"}'),
        "format 2, got 99.*name another folder",
    ),
    "no format": (manifest("{}"), "format 2, got None.*name another folder"),
    "a list": (manifest("[1]"), "format 2, got None.*name another folder"),
    "cut off": (manifest('{"format": 2, "qu'), "cut off or is not JSON.*name another folder"),
    "empty": (manifest(""), "cut off or is not JSON.*name another folder"),
    "wrong order": (
        manifest('{"format": 2, "size": "quick", "order": 3}'),
        "list.*name another folder",
    ),
    "wrong seconds": (
        manifest('{"format": 2, "size": "quick", "seconds": []}'),
        "dict.*name another folder",
    ),
    "wrong kind": (manifest('{"format": 2, "size": 3}'), "str.*name another folder"),
    "not UTF-8": (
        lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe{}"),
        "cut off or is not JSON.*name another folder",
    ),
    "alien": (alien, "no manifest.json: name a folder that `thalweg study` wrote"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_folder_that_is_not_for_this_study_is_left_alone(folder, bytes_of, kind):
    damage, told = DAMAGE[kind]
    damage(folder.path)
    before = bytes_of(folder.path)
    for opened in (
        lambda: ResultsFolder.create(folder.path, size="quick"),
        lambda: ResultsFolder.open(folder.path),
    ):
        with pytest.raises(ThalwegError, match=told):
            opened()
    assert bytes_of(folder.path) == before


@pytest.mark.parametrize(("there", "here"), list(itertools.permutations(SIZES, 2)))
def test_two_sizes_never_share_a_folder(tmp_path, bytes_of, there, here):
    ResultsFolder.create(tmp_path, size=there).write_manifest()
    before = bytes_of(tmp_path)
    with pytest.raises(
        ThalwegError, match=f"holds a {there} study and this is a {here} one.*--out"
    ):
        ResultsFolder.create(tmp_path, size=here)
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("where", ["file", "file/below", "n" * 300])
def test_a_place_that_cannot_be_written(tmp_path, bytes_of, where):
    (tmp_path / "file").write_text("a file")
    before = bytes_of(tmp_path)
    with pytest.raises(ThalwegError, match=r"cannot be written \(.+\): choose another --out"):
        ResultsFolder.create(tmp_path / where, size="quick")
    with pytest.raises(ThalwegError, match=r"no such folder; run|name another folder"):
        ResultsFolder.open(tmp_path / where)
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("keep", [0, 1, 0.5, -3])
def test_a_claim_file_that_is_cut_off(folder, bytes_of, keep):
    file = folder.path / "edge.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text[: int(keep * len(text)) if keep == 0.5 else keep], encoding="utf-8")
    before = bytes_of(folder.path)
    advice = rf"edge\.json cannot be used .*--only edge --fresh --out {folder.path}"
    with pytest.raises(ThalwegError, match=advice):
        folder.read("edge")
    assert bytes_of(folder.path) == before


def test_a_claim_that_is_not_there(folder):
    with pytest.raises(ThalwegError, match=r"is missing.*--only drift"):
        folder.read("drift")


def test_files_are_plain_json(folder):
    def refuse(text):
        raise AssertionError(text)  # NaN and Infinity are not JSON

    for file in folder.path.glob("*.json"):
        assert json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
