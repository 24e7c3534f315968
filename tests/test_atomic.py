"""A file is the old one or the new one, whole, whatever happens in between."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

import swag
from swag.atomic import replacing, write_text


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "result.json"
    path.write_text("old")
    return path


def alone(target: Path, content: str | None) -> None:
    """The folder holds this file with this content (None: nothing) and no temporary one."""
    assert [path.name for path in target.parent.iterdir()] == ([] if content is None else [target.name])
    assert content is None or target.read_text() == content


def test_a_new_file_and_a_replaced_one(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for content in ("new", "newer, and longer", "last"):
        with replacing(path) as temporary:
            temporary.write_text(content)
        alone(path, content)


def test_the_temporary_lies_in_the_same_folder_with_the_same_suffix(target: Path) -> None:
    with replacing(str(target)) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == target.suffix  # for writers that choose a format by it
        assert temporary.name.startswith(".")
        assert target.read_text() == "old"
        temporary.write_text("new")
        assert target.read_text() == "old"
    alone(target, "new")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("old", [True, False])
def test_an_exception_leaves_the_old_file_and_no_temporary(
    target: Path, error: type[BaseException], old: bool
) -> None:
    if not old:
        target.unlink()
    with pytest.raises(error, match="half-way"), replacing(target) as temporary:
        temporary.write_text("ne")
        raise error("half-way")
    alone(target, "old" if old else None)


@pytest.mark.parametrize(("module", "function"), [(os, "replace"), (os, "fsync"), (os, "chmod")])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_step_leaves_the_old_file(
    target: Path, module: Any, function: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(module, function, fail)
    expected = swag.FileError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught, replacing(target) as temporary:
        temporary.write_text("new")
    monkeypatch.undo()
    alone(target, "old")
    if expected is swag.FileError:
        assert str(target) in str(caught.value) and "No space left" in str(caught.value)


def test_an_error_of_the_writers_own_names_the_file(target: Path) -> None:
    match = r"result.json: could not be written .*disk is full.*unchanged"
    with pytest.raises(swag.FileError, match=match), replacing(target) as temporary:
        temporary.write_text("ne")
        raise OSError("disk is full")
    alone(target, "old")


def test_a_file_error_passes_as_it_is(target: Path) -> None:
    error = swag.FileError("said already")
    with pytest.raises(swag.FileError) as caught, replacing(target):
        raise error
    assert caught.value is error
    alone(target, "old")


def test_the_content_is_on_disk_before_the_name_changes(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *a: (steps.append("fsync"), fsync(*a)))
    monkeypatch.setattr(os, "replace", lambda *a: (steps.append("replace"), replace(*a)))
    write_text(target, "new")
    assert steps == ["fsync", "replace"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_are_those_of_any_new_file(target: Path, umask: int, mode: int) -> None:
    target.chmod(0o600)
    before = os.umask(umask)
    try:
        write_text(target, "new")
        assert os.umask(umask) == umask  # left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.parametrize("where", ["missing/result.json", "file/result.json", "a" * 300])
def test_folders_that_cannot_take_it(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(
        swag.FileError, match=r"cannot be written .*pass a path in a writable folder"
    ) as caught:
        write_text(tmp_path / where, "new")
    assert str(tmp_path / where) in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_an_unwritable_folder(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by the system for users; root is refused nothing, so its refusal is played."""
    if os.geteuid() == 0:

        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tempfile, "mkstemp", refuse)
    target.parent.chmod(0o555)
    try:
        with pytest.raises(swag.FileError, match=r"result.json: cannot be written \(Permission denied\)"):
            write_text(target, "new")
    finally:
        target.parent.chmod(0o755)
    alone(target, "old")


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "result.json"
    folder.mkdir()
    with pytest.raises(swag.FileError, match=r"result.json: could not be written"):
        write_text(folder, "new")
    assert folder.is_dir() and [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_text_is_utf8_with_plain_line_ends(target: Path) -> None:
    write_text(target, "θ̄ ± σ²\nzwei\n")
    assert target.read_bytes() == "θ̄ ± σ²\nzwei\n".encode()
