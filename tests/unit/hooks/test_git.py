"""Content from git: real repositories on disk, and hostile archives."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile

import pytest

from touchstone.hooks.git import GitSource, repack
from touchstone_agent.protocol.errors import ConfigurationError


def git(folder, *arguments):
    identity = {
        f"GIT_{role}_{field}": value
        for role in ("AUTHOR", "COMMITTER")
        for field, value in (("NAME", "t"), ("EMAIL", "t@example.org"))
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env=os.environ | identity,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    (folder / "sets" / "momentum").mkdir(parents=True)
    (folder / "sets" / "momentum" / "features.py").write_text("one = 1\n")
    (folder / "README").write_text("hello\n")
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(folder))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=first")
    git(folder, "tag", "v1")
    (folder / "sets" / "momentum" / "features.py").write_text("one = 2\n")
    git(folder, "commit", "--quiet", "--all", "--message=second")
    return folder


@pytest.fixture
def source():
    return GitSource(allow_local=True, max_bytes=1024**2)


def names(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def test_a_folder_at_a_tag_is_packed_with_its_commit(repository, source):
    content = source.fetch(str(repository), "v1", "sets/momentum")

    assert names(content.archive) == ["features.py"]
    assert content.commit == git(repository, "rev-parse", "v1^{commit}")
    assert content.sha256 != source.fetch(str(repository), "main", "sets/momentum").sha256


def test_the_same_files_give_the_same_bytes_whatever_the_commit(repository, source):
    first = source.fetch(str(repository), None, "sets")
    git(repository, "commit", "--quiet", "--allow-empty", "--message=third")
    second = source.fetch(f"file://{repository}", "main", "sets/")

    assert first.commit != second.commit
    assert first.sha256 == second.sha256


def test_all_of_a_branch_is_packed_but_for_its_links(repository, source):
    (repository / "link").symlink_to("/etc/passwd")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=third")

    content = source.fetch_all(str(repository), "main", field="branch")

    assert names(content.archive) == ["README", "sets/momentum/features.py"]
    assert content.commit == git(repository, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("url", "ref"),
    [("{}", "nope"), ("/no/such/repository", "main"), ("http://127.0.0.1:9/x.git", "main")],
    ids=["ref", "repository", "protocol"],
)
def test_whatever_is_wrong_with_a_branch_is_told_by_the_fields_name(repository, source, url, ref):
    with pytest.raises(ConfigurationError, match=r"^branch: "):
        source.fetch_all(url.format(repository), ref, field="branch")


def test_a_token_in_the_url_of_an_installation_is_told_nobody(source):
    with pytest.raises(ConfigurationError) as raised:
        source.fetch_all("https://bot:s3cret@127.0.0.1:9/x.git", "main", field="branch")

    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("ref", "path", "message"),
    [
        ("nope", ".", "ref: .* has no ref 'nope'"),
        ("main", "sets/nope", "path: .* has no folder 'sets/nope'"),
        ("main", "README", "path: .* has no folder 'README'"),
    ],
)
def test_what_is_not_there_is_refused_by_the_fields_name(repository, source, ref, path, message):
    with pytest.raises(ConfigurationError, match=message):
        source.fetch(str(repository), ref, path)


@pytest.mark.parametrize(
    "url", ["/no/such/repository", "https://127.0.0.1:9/x.git", "http://127.0.0.1:9/x.git"]
)
def test_a_source_that_cannot_be_reached_is_refused_as_source(source, url):
    with pytest.raises(ConfigurationError, match="source: "):
        source.fetch(url, None, ".")


@pytest.mark.parametrize("url", ["/etc", "file:///etc", "../x", "ext::sh -c id", "git://h/x"])
def test_a_shared_installation_reads_no_local_path_and_runs_no_helper(url):
    with pytest.raises(ConfigurationError, match="source: "):
        GitSource(allow_local=False, max_bytes=1024).fetch(url, None, ".")


def test_content_over_the_limit_is_refused(repository):
    with pytest.raises(ConfigurationError, match="more than 3 bytes"):
        GitSource(allow_local=True, max_bytes=3).fetch(str(repository), None, ".")


def make_tar(*members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return packed.getvalue()


def make_link(kind):
    info = tarfile.TarInfo("features.py")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    "info",
    [
        tarfile.TarInfo("../escape.py"),
        tarfile.TarInfo("/etc/cron.d/x"),
        tarfile.TarInfo("a/../../b"),
        make_link(tarfile.SYMTYPE),
        make_link(tarfile.LNKTYPE),
        make_link(tarfile.CHRTYPE),
        make_link(tarfile.FIFOTYPE),
    ],
)
def test_a_member_that_could_escape_is_refused(info):
    with pytest.raises(ConfigurationError, match="not a plain file inside"):
        repack(make_tar((info, b"")), "source", max_bytes=1024)


def test_what_is_no_archive_is_refused():
    with pytest.raises(ConfigurationError, match="not a readable tar"):
        repack(b"PK\x03\x04", "source", max_bytes=1024)


def test_an_empty_selection_is_refused():
    tar = make_tar((tarfile.TarInfo("a/features.py"), b"x"))

    with pytest.raises(ConfigurationError, match="path: no files in 'b'"):
        repack(tar, "source", path="b", max_bytes=1024)
    assert names(repack(tar, "source", path="a", max_bytes=1024)) == ["features.py"]
