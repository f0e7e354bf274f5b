"""Writing files: whole or not at all, as the file that is there, and never over what is no file or somebody else's."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dexar_fast import InputError
from dexar_fast.cli.output import write_files
from dexar_fast.progress import silent
from dexar_fast.result.atomic import write_atomically

from .explanations import make_explanation


def test_the_mode_of_a_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    usual = stat.S_IMODE(path.stat().st_mode)
    assert usual == 0o666 & ~umask()
    path.chmod(0o640)
    write_atomically(path, b"two")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"two", 0o640)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("there", [True, False], ids=["file", "no file yet"])
def test_a_link_goes_on_pointing_there(tmp_path: Path, there: bool) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    if there:
        target.write_bytes(b"one")
    link.symlink_to(target)
    assert write_atomically(link, b"two") == link
    assert link.is_symlink()
    assert target.read_bytes() == b"two"
    assert list((tmp_path / "folder").iterdir()) == [target]


def test_what_is_no_file_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (pipe, tmp_path / "link"):
        with pytest.raises(InputError, match=r"path: expected a file, or a name that is free; .* is a device"):
            write_atomically(path, b"data")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"data")


def test_names_may_be_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_atomically(path, b"data")
    assert path.read_bytes() == b"data"


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, rename = os.fsync, os.replace

    def noted(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object) -> None:
            order.append(name)
            function(*args)

        return call

    monkeypatch.setattr(os, "fsync", noted("sync", sync))
    monkeypatch.setattr(os, "replace", noted("rename", rename))
    write_atomically(tmp_path / "file", b"data", durable=True)
    assert order == ["sync", "rename", "sync"]  # the file, its name, the folder that holds the name


def explanation(*words: str):
    return make_explanation(words, rows=2, cols=2, image=Image.new("RGB", (8, 8)))


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "overlays").iterdir()}


def test_only_overlays_that_the_last_run_recorded_are_removed(tmp_path: Path) -> None:
    """Also not those of the same kind of name."""
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays" / "001-holiday.png").write_bytes(b"mine")
    write_files(explanation(" one", " two"), tmp_path, silent)
    assert names(tmp_path) == {"answer.png", "000-one.png", "001-two.png", "001-holiday.png"}
    write_files(explanation(" three"), tmp_path, silent)
    assert names(tmp_path) == {"answer.png", "000-three.png", "001-holiday.png"}
    assert (tmp_path / "overlays" / "001-holiday.png").read_bytes() == b"mine"


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    out.mkdir()
    write_files(explanation(" one", " two"), out, silent)
    (out / "overlays").rename(album)
    (out / "overlays").symlink_to(album)
    write_files(explanation(" three"), out, silent)
    assert {path.name for path in album.iterdir()} == {"answer.png", "000-one.png", "001-two.png", "000-three.png"}


def test_a_record_of_somebody_else_removes_nothing(tmp_path: Path) -> None:
    victim = tmp_path / "victim.png"
    victim.write_bytes(b"mine")
    for record in ('{"overlays": ["../victim.png"]}', '{"overlays": [1]}', "[]", "{", '{"overlays": "000-a.png"}'):
        (tmp_path / ".dexar-fast.json").write_text(record)
        write_files(explanation(" one"), tmp_path, silent)
    assert victim.read_bytes() == b"mine"
    assert names(tmp_path) == {"answer.png", "000-one.png"}
