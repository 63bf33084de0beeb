"""Archives of data sets, as somebody might send them."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from fakes.data_sets import BODY, build_text, pack, write_folder
from touchstone.client.packing import pack_data_set
from touchstone.confined.data_sets import read_data_archive
from touchstone.core.data_sets import build_digest
from touchstone_agent.protocol.errors import ConfigurationError

TEXT = build_text().encode()
LIMIT = 100_000


def make(*members, kind="w:gz"):
    """Return an archive of pairs of a name and a body, or of members."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=kind) as archive:
        for name, body in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return packed.getvalue()


def link(name, target="/etc/passwd", kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


GOOD = make(("data.toml", TEXT), ("eurusd.csv", BODY))


@pytest.fixture
def in_files(tmp_path):
    """Return what makes a file of bytes: the program reads a descriptor."""

    def write(body):
        path = tmp_path / "given.tar.gz"
        path.write_bytes(body)
        return path.open("rb")

    return write


def test_what_was_packed_is_found_again(in_files, tmp_path):
    archive = pack(tmp_path / "set")
    folder = tmp_path / "out"
    folder.mkdir()

    with in_files(archive) as file:
        found = read_data_archive(file, max_bytes=LIMIT, folder=folder)

    assert found.digest == build_digest(TEXT, BODY)
    assert (found.text.encode(), found.data_bytes) == (TEXT, len(BODY))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "data.toml": TEXT,
        "eurusd.csv": BODY,
    }


def test_equal_files_give_equal_bytes(tmp_path):
    assert pack(tmp_path / "one") == pack(tmp_path / "two" / "deep")


HOSTILE = {
    "nothing": (b"", "cut off"),
    "no archive": (b"x" * 1000, "not a readable .tar.gz"),
    "cut off": (GOOD[: len(GOOD) // 2], "not a readable .tar.gz"),
    "checksum": (GOOD[:-8] + b"\0\0\0\0" + GOOD[-4:], "not a readable .tar.gz"),
    "not packed": (gzip.decompress(GOOD), "not a readable .tar.gz"),
    "empty": (make(), "has its end where 'data.toml' should be"),
    "no data": (make(("data.toml", TEXT)), "has its end where 'eurusd.csv' should be"),
    "no description": (make(("eurusd.csv", BODY)), "has 'eurusd.csv' where 'data.toml'"),
    "other order": (make(("eurusd.csv", BODY), ("data.toml", TEXT)), "has 'eurusd.csv' where"),
    "one more": (make(("data.toml", TEXT), ("eurusd.csv", BODY), ("x.py", b"")), "members"),
    "another data file": (make(("data.toml", TEXT), ("x.csv", BODY)), "has 'x.csv' where"),
    "twice": (make(("data.toml", TEXT), ("data.toml", TEXT)), "has 'data.toml' where"),
    "a folder": (make(("x/data.toml", TEXT), ("eurusd.csv", BODY)), "has 'x/data.toml' where"),
    "upwards": (make(("../data.toml", TEXT), ("eurusd.csv", BODY)), "leads out of the archive"),
    "absolute": (make(("data.toml", TEXT), ("/eurusd.csv", BODY)), "leads out of the archive"),
    "link": (make(("data.toml", TEXT), (link("eurusd.csv"), b"")), "is a link"),
    "hard link": (
        make(("data.toml", TEXT), (link("eurusd.csv", kind=tarfile.LNKTYPE), b"")),
        "is a link",
    ),
    "device": (
        make(("data.toml", TEXT), (link("eurusd.csv", kind=tarfile.CHRTYPE), b"")),
        "neither a file nor a folder",
    ),
    "tampered": (
        make(("data.toml", TEXT), ("eurusd.csv", BODY + b"x")),
        "sha256: eurusd.csv has ",
    ),
    "not text": (make(("data.toml", b"\xff\xfe"), ("eurusd.csv", BODY)), "is not UTF-8"),
    "not toml": (make(("data.toml", b"x"), ("eurusd.csv", BODY)), "not TOML"),
    "long text": (make(("data.toml", b"#" * 70_000), ("x", b"")), "has more than 65536 bytes"),
    "too large": (
        make(("data.toml", TEXT), ("eurusd.csv", bytes(LIMIT + 1))),
        "unpacks to more than 100000 bytes",
    ),
}


@pytest.mark.parametrize(("archive", "told"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused_in_words(in_files, tmp_path, archive, told):
    folder = tmp_path / "out"
    folder.mkdir()

    with in_files(archive) as file, pytest.raises(ConfigurationError) as caught:
        read_data_archive(file, max_bytes=LIMIT, folder=folder)

    assert told in str(caught.value)
    assert str(caught.value).startswith(("data: the archive ", "data.toml: "))
    assert {path.name for path in folder.iterdir()} <= {"data.toml", "eurusd.csv"}


# --- packing -------------------------------------------------------------------------------------


def test_other_files_of_the_folder_stay_there(tmp_path, in_files):
    folder = write_folder(tmp_path / "set")
    plain = pack_data_set(folder, LIMIT)[1]
    (folder / "secret.env").write_text("key")

    assert pack_data_set(folder, LIMIT)[1] == plain


def test_a_folder_with_something_wrong_is_refused_with_the_way_out(tmp_path):
    folder = write_folder(tmp_path / "set")
    with pytest.raises(ConfigurationError, match=r"data\.toml: No such file.*give the folder"):
        pack_data_set(tmp_path, LIMIT)
    with pytest.raises(ConfigurationError, match="packed, of at most"):
        pack_data_set(folder, 100)
    (folder / "eurusd.csv").write_bytes(b"other")
    with pytest.raises(ConfigurationError, match=r"sha256: eurusd\.csv has [0-9a-f]{64}, and"):
        pack_data_set(folder, LIMIT)
    (folder / "eurusd.csv").unlink()
    with pytest.raises(ConfigurationError, match=r"file: there is no eurusd\.csv in"):
        pack_data_set(folder, LIMIT)
    (folder / "data.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        pack_data_set(folder, LIMIT)
