"""Content from git: real repositories on disk, and a git that knows nothing of this host."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import tarfile
from collections import Counter

import pytest

from touchstone.hooks import repository as module
from touchstone.hooks.git import GitSource, find_credentials
from touchstone.hooks.repository import GitCredentials
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
    return GitSource(hosts=["*"], allow_local=True, max_bytes=1024**2)


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
        ("nope", ".", "ref: the repository has no branch and no tag 'nope'; push it"),
        ("origin/nope", ".", "no branch and no tag 'origin/nope'; name it 'nope'"),
        ("deadbeef", ".", "ref: the repository has no branch, no tag and no commit 'deadbeef'"),
        ("a" * 40, ".", "ref: the repository has no commit '.*'; push it first"),
        ("main", "sets/nope", "path: .* has no folder 'sets/nope'"),
        ("main", "README", "path: 'README' is a file; give its folder, '.'"),
        ("main", "sets/momentum/features.py", "is a file; give its folder, 'sets/momentum'"),
        ("main", r"sets\momentum", "has no folder '.*'; write / between folders"),
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
        GitSource(hosts=["*"], allow_local=False, max_bytes=1024).fetch(url, None, ".")


def test_content_over_the_limit_is_refused(repository):
    with pytest.raises(
        ConfigurationError,
        match=r"^path: its files have 14 bytes, more than 3 bytes; leave out 'sets/mom.*8",
    ):
        GitSource(hosts=[], allow_local=True, max_bytes=3).fetch(str(repository), None, ".")


# --- what a commit is called --------------------------------------------------------------------


@pytest.mark.parametrize("way", ["tree/main/sets", "-/tree/main/sets", "blob/main/features.py"])
def test_a_page_that_a_browser_shows_is_answered_with_the_repository(way):
    git = GitSource(hosts=("*",), allow_local=False, max_bytes=10**6)
    with git._open("https://git.invalid/team/sets", url_field="source") as asked:
        error = asked._explain("not found", f"https://git.invalid/team/sets/{way}", "source")
    told = "give https://git.invalid/team/sets, the branch as ref and the folder as path"
    assert str(error).endswith(told)


@pytest.mark.parametrize(
    "name", ["fix/#12-lookahead", "release(1)", "it's", 'say-"hello"', "käse", "a;b&c", "$HOME"]
)
def test_a_branch_may_be_called_whatever_git_allows(repository, source, name):
    git(repository, "checkout", "--quiet", "-b", name)

    assert source.fetch(str(repository), name, ".").commit == git(repository, "rev-parse", "HEAD")


def test_a_name_of_a_branch_and_of_a_tag_is_asked_about(repository, source):
    git(repository, "branch", "v1")

    with pytest.raises(ConfigurationError, match=r"^ref: 'v1' is both a branch and a tag"):
        source.fetch(str(repository), "v1", ".")
    tag = source.fetch(str(repository), "refs/tags/v1", ".")
    branch = source.fetch(str(repository), "refs/heads/v1", ".")
    assert tag.commit == git(repository, "rev-parse", "refs/tags/v1")
    assert branch.commit == git(repository, "rev-parse", "refs/heads/v1")


def test_a_commit_may_be_called_by_the_beginning_of_its_id(repository, source):
    first = git(repository, "rev-parse", "v1")
    git(repository, "tag", "--annotate", "--message=x", "v2")

    assert source.fetch(str(repository), first[:7], ".").commit == first
    assert source.fetch(str(repository), first[:7].upper(), ".").commit == first
    assert source.fetch(str(repository), first, ".").commit == first
    assert source.fetch(str(repository), "v2", ".").commit == git(repository, "rev-parse", "HEAD")


def test_a_beginning_that_several_commits_share_is_told(repository, source):
    # Always the same ids: of so many, some begin alike.
    commits = "".join(
        f"commit refs/heads/many\ncommitter t <t@example.org> {number} +0000\ndata 1\nx\n"
        for number in range(1200)
    )
    subprocess.run(
        ["git", "-C", str(repository), "fast-import", "--quiet"],
        input=commits,
        text=True,
        check=True,
    )
    begins = Counter(line[:4] for line in git(repository, "rev-list", "many").splitlines())
    begin, count = begins.most_common(1)[0]
    assert count > 1

    with pytest.raises(
        ConfigurationError, match=f"^ref: {count} commits begin with '{begin}'; give"
    ):
        source.fetch(str(repository), begin, ".")


def test_an_empty_repository_is_told_as_one(tmp_path, source):
    git(tmp_path, "init", "--quiet", "--bare", "empty.git")

    with pytest.raises(ConfigurationError, match="source: the repository has no commits; push one"):
        source.fetch(str(tmp_path / "empty.git"), None, ".")


@pytest.mark.parametrize(
    ("hosts", "allow_local", "told"),
    [
        (["*"], True, "its host refuses the connection; mend host and port"),
        (["127.0.0.1:9"], False, "its host refuses the connection; mend host and port"),
        (["*"], False, "cannot be read within"),
    ],
    ids=["one machine", "named by an admin", "anybody's"],
)
def test_why_a_host_does_not_answer_is_told_of_hosts_that_were_named(hosts, allow_local, told):
    shared = GitSource(hosts=hosts, allow_local=allow_local, max_bytes=1024)

    with pytest.raises(ConfigurationError, match=told):
        shared.fetch("ssh://git@127.0.0.1:9/x.git", None, ".")


# --- the files of the commit, and no others -----------------------------------------------------


def commit_all(repository):
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=more")


def read(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_files_are_those_of_the_commit_byte_for_byte(repository, source):
    """`git archive` left out what attributes of the repository said, and converted the rest."""
    folder = repository / "sets" / "momentum"
    (folder / ".gitattributes").write_text("data.bin export-ignore\n*.txt eol=crlf ident\n")
    (folder / "data.bin").write_bytes(bytes(range(256)))
    (folder / "notes.txt").write_bytes(b"$Id$\none\n")
    (folder / "run.sh").write_text("true\n")
    (folder / "run.sh").chmod(0o755)
    commit_all(repository)

    content = source.fetch(str(repository), "main", "sets/momentum")

    files = read(content.archive)
    assert files["data.bin"] == bytes(range(256))
    assert files["notes.txt"] == b"$Id$\none\n"
    with tarfile.open(fileobj=io.BytesIO(content.archive)) as tar:
        assert [tar.getmember(name).mode for name in ("notes.txt", "run.sh")] == [0o644, 0o755]


def test_a_link_in_the_content_is_refused_by_its_name(repository, source):
    (repository / "sets" / "link").symlink_to("/etc/passwd")
    commit_all(repository)

    with pytest.raises(ConfigurationError, match=r"^path: 'link' is a symbolic link"):
        source.fetch(str(repository), "main", "sets")


def test_what_only_stands_for_files_is_told(repository, source, tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (repository / "sets" / "weights.bin").write_text(pointer)
    git(repository, "add", "--all")
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{commit},sets/library")
    git(repository, "commit", "--quiet", "--message=more")

    content = source.fetch(str(repository), "main", "sets")

    assert names(content.archive) == ["momentum/features.py", "weights.bin"]
    assert len(content.remarks) == 2
    assert content.remarks[0].startswith("'library' is a submodule")
    assert content.remarks[1].startswith("'weights.bin' is a pointer of Git LFS")


def test_a_few_kilobytes_that_unfold_to_very_many_files_are_refused(repository, source):
    tree = git(repository, "rev-parse", "HEAD:sets/momentum")
    for _ in range(5):
        lines = "".join(f"040000 tree {tree}\td{number}\n" for number in range(10))
        made = subprocess.run(
            ["git", "-C", str(repository), "mktree"],
            input=lines.encode(),
            capture_output=True,
            check=True,
        )
        tree = made.stdout.decode().strip()
    commit = git(repository, "commit-tree", "-m", "bomb", tree)
    git(repository, "branch", "bomb", commit)

    with pytest.raises(ConfigurationError, match=r"^path: "):
        source.fetch(str(repository), "bomb", ".")


def test_a_repository_that_is_larger_than_is_taken_is_told_so(repository, monkeypatch):
    monkeypatch.setattr(module, "_FILE_BYTES", 5000)
    (repository / "large.bin").write_bytes(os.urandom(20_000))
    commit_all(repository)

    with pytest.raises(ConfigurationError, match=r"^source: the repository is larger"):
        GitSource(hosts=[], allow_local=True, max_bytes=10).fetch(str(repository), None, "sets")


# --- nothing of this host -----------------------------------------------------------------------


def test_what_is_configured_for_whoever_runs_this_is_not_run(
    repository, source, tmp_path, monkeypatch
):
    """A filter of the home's gitconfig was run on every file that a repository asked it for."""
    home, trace = tmp_path / "home", tmp_path / "ran"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[filter "evil"]\n\tsmudge = "touch {trace}; cat"\n\trequired\n'
        f"[core]\n\tattributesFile = {home / 'attributes'}\n"
        f'[uploadpack]\n\tpackObjectsHook = "touch {trace}; false #"\n'
    )
    (home / "attributes").write_text("* filter=evil\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.attributesFile")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(home / "attributes"))

    content = source.fetch(str(repository), "main", "sets/momentum")

    assert read(content.archive) == {"features.py": b"one = 2\n"}
    assert not trace.exists()


@pytest.fixture
def fake_ssh(tmp_path, monkeypatch):
    """An ssh that writes down how it was called, and what its files hold, and fails."""
    folder, said = tmp_path / "bin", tmp_path / "said"
    folder.mkdir()
    script = (
        "#!/bin/sh\n"
        f'printf "%s\\n" "$@" > {said}\n'
        f'cat "$HOME/private_key" "$HOME/known_hosts" >> {said} 2> /dev/null\n'
        "exit 255\n"
    )
    (folder / "ssh").write_text(script)
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return said


KEY = GitCredentials(
    address="git.example.org", private_key="the key", known_hosts="git.example.org ssh-ed25519 A"
)


def test_ssh_looks_for_keys_and_hosts_nowhere_but_in_the_connection(fake_ssh):
    source = GitSource(hosts=["*"], allow_local=False, max_bytes=1024, credentials=KEY)

    with pytest.raises(ConfigurationError, match=r"^source: cannot be read"):
        source.fetch("git@git.example.org:team/sets.git", None, ".")

    said = fake_ssh.read_text().splitlines()
    assert said[said.index("-F") + 1] == "/dev/null"
    assert {"IdentityAgent=none", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"} <= set(said)
    assert {"the key", "git.example.org ssh-ed25519 A"} <= set(said)


def test_another_host_is_shown_no_key(fake_ssh):
    source = GitSource(hosts=["*"], allow_local=False, max_bytes=1024, credentials=KEY)

    with pytest.raises(ConfigurationError):
        source.fetch("git@other.example.org:team/sets.git", None, ".")

    said = fake_ssh.read_text()
    assert "IdentityFile=none" in said
    assert "the key" not in said


@pytest.mark.parametrize(
    ("url", "is_told"),
    [("https://git.example.org/x.git", True), ("https://other.example.org/x.git", False)],
)
def test_a_password_reaches_git_by_a_helper_for_its_own_host_only(
    tmp_path, monkeypatch, url, is_told
):
    credentials = GitCredentials(address="git.example.org", login="bot", password="s3cret$'\"")
    source = GitSource(hosts=["*"], allow_local=False, max_bytes=1024, credentials=credentials)
    commands = []
    run = module.run_confined
    monkeypatch.setattr(
        module,
        "run_confined",
        lambda command, **more: commands.append(command) or run(command, **more),
    )

    with source._open(url, url_field="source") as opened:
        given = tmp_path / "asked"
        given.write_text(f"url={url}\n\n")
        with given.open("rb") as asked:
            told = opened._run("credential", "fill", given=asked).output.decode()
        files = "".join(f.read_text() for f in opened._home.iterdir())

    assert ("password=s3cret$'\"\n" in told) is is_told
    assert "s3cret" not in files
    assert not any("s3cret" in word for command in commands for word in command)


def test_credentials_are_read_from_a_connection_and_shown_in_no_repr(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("the key")
    monkeypatch.setenv(
        "AIRFLOW_CONN_TOUCHSTONE_GIT",
        json.dumps(
            {
                "conn_type": "generic",
                "host": "Git.example.org",
                "port": 8443,
                "login": "bot",
                "password": "s3cret",
                "extra": {"key_file": str(tmp_path / "key"), "known_hosts": "hosts"},
            }
        ),
    )

    found = find_credentials("touchstone_git")

    assert found == GitCredentials(
        address="git.example.org:8443",
        login="bot",
        password="s3cret",
        private_key="the key",
        known_hosts="hosts",
    )
    assert "s3cret" not in repr(found)
    assert "the key" not in repr(found)
    assert find_credentials(None) is None


# --- which hosts, and what is told of them ------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ([], "https://github.com/a/b"),
        (["github.com"], "https://169.254.169.254/latest"),
        (["github.com"], "https://github.com:8443/a/b"),
        (["*.example.org"], "git@example.org.evil.net:x"),
    ],
)
def test_a_host_that_is_not_allowed_is_refused_before_anybody_is_asked(hosts, url, monkeypatch):
    monkeypatch.setattr(module, "run_confined", None)

    with pytest.raises(ConfigurationError, match=r"^source: .* is not a host that this"):
        GitSource(hosts=hosts, allow_local=False, max_bytes=1024).fetch(url, None, ".")


def test_a_helper_that_goes_on_when_git_is_over_its_time_is_ended(tmp_path, monkeypatch):
    """`git remote-https` went on for as long as its host kept the connection."""
    folder, held = tmp_path / "bin", tmp_path / "held"
    folder.mkdir()
    os.mkfifo(held)
    script = (
        '#!/bin/sh\ncase "$1" in init) exit 0;; esac\n'
        f"exec 9> {held}\nsleep 100000 > /dev/null 2>&1 &\nwait\n"
    )
    (folder / "git").write_text(script)
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(module, "GIT_SECONDS", 2)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(held, os.O_WRONLY)

    with pytest.raises(ConfigurationError, match=r"^source: cannot be read"):
        GitSource(hosts=["*"], allow_local=False, max_bytes=1024).fetch("https://h/x", None, ".")

    os.close(writer)
    watch = select.poll()
    watch.register(reader, select.POLLHUP)
    # Comes true when nobody holds the other end any more.
    assert watch.poll() == [(reader, select.POLLHUP)]
    os.close(reader)


# --- refs -----------------------------------------------------------------------------------------


def test_refs_are_listed_with_their_commits(repository, source):
    git(repository, "branch", "other", "v1")
    git(repository, "tag", "--annotate", "--message=second", "v2")
    git(repository, "update-ref", "refs/pull/1/head", "HEAD")

    found = source.list_refs(str(repository))

    assert found.names == ["refs/heads/main", "refs/heads/other", "refs/tags/v2", "refs/tags/v1"]
    assert found.find_commit("refs/tags/v2") == git(repository, "rev-parse", "main")
    assert found.find_commit("refs/heads/other") == git(repository, "rev-parse", "v1")
    assert found.find_commit("HEAD") == git(repository, "rev-parse", "main")


def test_refs_of_a_host_that_is_not_allowed_are_not_asked_for(tmp_path):
    closed = GitSource(hosts=["host.example"], allow_local=False, max_bytes=1024)

    for url in ("https://elsewhere.example/a.git", str(tmp_path), "ext::sh -c true"):
        with pytest.raises(ConfigurationError, match=r"^source: "):
            closed.list_refs(url)


def test_refs_of_no_repository_are_told_as_that(tmp_path, source):
    with pytest.raises(ConfigurationError, match=r"^source: there is no"):
        source.list_refs(str(tmp_path / "none"))


def test_more_refs_than_are_taken_are_refused(repository, source, monkeypatch):
    monkeypatch.setattr(module, "_REFS_BYTES", 60)

    with pytest.raises(ConfigurationError, match=r"^source: "):
        source.list_refs(str(repository))
