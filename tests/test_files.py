"""Files replaced in one step: the old one until the new one is whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from odam_d2.files import name_images, open_atomically, write_atomically


@pytest.mark.parametrize(("content", "written"), [("é\n", b"\xc3\xa9\n"), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_text_and_bytes_replace_what_was_there(content, written, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"a longer text that was there before")
    write_atomically(path, content)
    assert path.read_bytes() == written and os.listdir(tmp_path) == ["a.json"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with open_atomically(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
        # Beside it, under the name of this process alone.
        assert sorted(os.listdir(tmp_path)) == ["a.txt", f"a.txt.{os.getpid()}.part"]
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_beside_it(error, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), open_atomically(path, "wb") as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_that_does_not_exist_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        write_atomically(tmp_path / "absent" / "a.txt", "text")


@pytest.mark.parametrize("mode", ["a", "r+", "x"])
def test_modes_that_keep_a_part_of_the_old_file_are_refused(mode, tmp_path):
    with pytest.raises(ValueError, match=f"mode is '{mode[0]}"), open_atomically(tmp_path / "a.txt", mode):
        pass
    assert not os.listdir(tmp_path)


def test_it_needs_the_standard_library_alone():
    code = "import sys, odam_d2.files; print({'numpy', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def name_beside(file, *taken):
    """The name of an image beside others that have theirs."""
    (name,) = name_images([Path(file)], {f"other {number}": own for number, own in enumerate(taken)}).values()
    return name


def test_a_name_is_numbered_where_it_is_taken():
    assert name_beside("a/photo.png") == "photo"
    assert name_beside("b/photo.jpg", "photo") == "photo_2"
    # Also where somebody calls a file so.
    assert name_beside("c/photo.png", "photo", "photo_2", "photo_3") == "photo_4"
    assert name_beside("photo_2.png", "photo", "photo_2") == "photo_2_2"
