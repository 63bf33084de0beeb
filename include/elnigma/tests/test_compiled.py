"""What JAX has compiled goes from one attempt to the next, whatever else lies in its folder."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import GOOD_VALIDATION, Run

MIB = 1024**2
KEY = "0" * 64
NAME = f"jit_step-{KEY}-cache"
OTHER = f"jit_other-{KEY}-cache"
COMPILES = f"""
{GOOD_VALIDATION}
folder = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
print("found", sorted(path.name for path in folder.iterdir()))
"""

RunScript = Callable[..., Run]


@pytest.fixture
def run_compiling(run_script: RunScript, tmp_path: Path) -> RunScript:
    """Run a script that may use the folder; ``given`` is what an earlier attempt has left."""

    def run(source: str, *, given: bytes | None = None, **variables: str) -> Run:
        inputs = tmp_path / "in"
        inputs.mkdir()
        if given is not None:
            (inputs / "compiled.tar").write_bytes(given)
        return run_script(
            COMPILES + source, **{"COMPILED_BYTES": str(MIB), "IN": str(inputs), **variables}
        )

    return run


def read_kept(run: Run) -> dict[str, bytes] | None:
    path = run.out / "compiled.tar"
    if not path.exists():
        return None
    with tarfile.open(path) as archive:
        kept = {}
        for member in archive:
            file = archive.extractfile(member)
            kept[member.name] = b"" if file is None else file.read()
        return kept


def pack(*members: tuple[tarfile.TarInfo | str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def test_what_is_compiled_is_kept_and_is_no_output(run_compiling: RunScript) -> None:
    run = run_compiling(f"(folder / '{NAME}').write_bytes(b'code')")

    assert run.exit_code == 0
    assert read_kept(run) == {NAME: b"code"}
    assert "compiled.tar" not in {file["path"] for file in run.verdict["files"]}


def test_what_was_kept_is_found_and_kept_with_what_is_new(run_compiling: RunScript) -> None:
    run = run_compiling(f"(folder / '{OTHER}').write_bytes(b'new')", given=pack((NAME, b"code")))

    assert f"found ['{NAME}']" in run.console
    assert read_kept(run) == {NAME: b"code", OTHER: b"new"}


def test_without_anything_new_nothing_is_left(run_compiling: RunScript) -> None:
    assert read_kept(run_compiling("", given=pack((NAME, b"code")))) is None


def test_an_attempt_that_failed_leaves_nothing(run_compiling: RunScript) -> None:
    run = run_compiling(f"(folder / '{NAME}').write_bytes(b'code'); raise SystemExit(3)")

    assert run.exit_code == 3
    assert read_kept(run) is None


def test_who_is_not_asked_to_keep_anything_names_no_folder(run_script: RunScript) -> None:
    run = run_script(f"{GOOD_VALIDATION}\nprint(*(n for n in os.environ if n.startswith('JAX_')))")

    assert run.exit_code == 0
    assert "JAX_" not in run.console
    assert read_kept(run) is None


LINK = tarfile.TarInfo(NAME)
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc/passwd"
PIPE = tarfile.TarInfo(NAME)
PIPE.type = tarfile.FIFOTYPE


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"nonsense" * 1000,
        pack((NAME, b"code"))[:700],
        pack((f"../{NAME}", b"code")),
        pack((f"deep/{NAME}", b"code")),
        pack(("sitecustomize.py", b"code")),
        pack((LINK, b"")),
        pack((PIPE, b"")),
        pack((NAME, bytes(2 * MIB))),
        pack((NAME, b"one"), (NAME, b"two")),
    ],
    ids=["empty", "nonsense", "cut", "out", "deep", "name", "link", "pipe", "large", "twice"],
)
def test_an_archive_that_no_runner_has_packed_costs_no_attempt(
    run_compiling: RunScript, given: bytes, tmp_path: Path
) -> None:
    run = run_compiling("", given=given)

    assert run.exit_code == 0
    assert not list(tmp_path.rglob(NAME))
    assert "found []" in run.console or f"found ['{NAME}']" in run.console


# Each leaves one good file beside what is odd.
HOSTILE = {
    "links": f"(folder / '{OTHER}').symlink_to('/etc/hostname')",
    "hard links": f"os.link(folder / '{NAME}', folder / '{OTHER}'); "
    f"(folder / '{NAME}').unlink(); (folder / '{NAME}').write_bytes(b'code'); "
    f"os.link(folder / '{OTHER}', folder / 'more')",
    "pipes": f"os.mkfifo(folder / '{OTHER}')",
    "folders": f"(folder / '{OTHER}').mkdir()",
    "other names": "(folder / 'sitecustomize.py').write_text('evil'); "
    "(folder / 'a\\nb').write_text('x')",
    "closed": f"(folder / '{OTHER}').write_bytes(b'x'); (folder / '{OTHER}').chmod(0)",
    "too many": "[(folder / f'jit{n}').touch() for n in range(1500)]",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_of_anything_but_plain_small_files_nothing_is_kept(
    run_compiling: RunScript, source: str
) -> None:
    run = run_compiling(f"(folder / '{NAME}').write_bytes(b'code'); {source}")

    assert run.exit_code == 0
    kept = read_kept(run)
    assert kept is not None
    if os.geteuid() == 0 and "chmod(0)" in source:
        kept.pop(OTHER)  # nothing is closed to root
    assert kept == {NAME: b"code"}


@pytest.mark.parametrize(
    "source",
    [
        f"open(folder / '{OTHER}', 'wb').truncate(2**40)",
        "[(folder / f'jit{n}').touch() for n in range(3000)]",
    ],
    ids=["sparse", "many"],
)
def test_what_is_beyond_the_bounds_is_not_read(run_compiling: RunScript, source: str) -> None:
    run = run_compiling(f"{source}; (folder / '{NAME}').write_bytes(b'code')")

    assert run.exit_code == 0
    # Nothing, if the runner has looked before the end.
    assert read_kept(run) in (None, {NAME: b"code"})


@pytest.mark.parametrize(
    "source",
    [
        "import shutil; shutil.rmtree(folder)",
        "import shutil; shutil.rmtree(folder); folder.symlink_to('/etc')",
        "import shutil; shutil.rmtree(folder); os.mkfifo(folder)",
        "folder.chmod(0)",
        "deep = folder\nfor _ in range(200): deep = deep / 'd'; deep.mkdir()",
    ],
    ids=["gone", "link", "pipe", "closed", "deep"],
)
def test_a_folder_that_is_none_any_more_costs_nothing(
    run_compiling: RunScript, source: str
) -> None:
    run = run_compiling(source)

    assert run.exit_code == 0
    assert read_kept(run) is None


def test_too_much_is_removed_while_the_trainer_runs_and_said_once(
    run_compiling: RunScript,
) -> None:
    run = run_compiling(
        f"(folder / '{NAME}').write_bytes(bytes({2 * MIB}))\n"
        "import time\n"
        f"while (folder / '{NAME}').exists(): time.sleep(0.05)\n"
    )

    assert run.exit_code == 0
    assert run.console.count("takes more than 1 MiB") == 1
    assert read_kept(run) is None


def test_what_does_not_fit_beside_the_outputs_is_not_kept(run_compiling: RunScript) -> None:
    """The output limit is the submitter's, who does not choose what is kept."""
    run = run_compiling(
        f"(folder / '{NAME}').write_bytes(b'code'); (out / 'big').write_bytes(bytes({MIB}))",
        OUTPUT_BYTES=str(MIB + 20_000),
    )

    assert run.exit_code == 0
    assert read_kept(run) is None
    assert "what was compiled is not kept: there is no room for it" in run.console


def test_a_trainer_does_not_choose_what_is_left_in_its_place(run_compiling: RunScript) -> None:
    run = run_compiling(
        f"(folder / '{NAME}').write_bytes(b'code'); "
        "(out / 'compiled.tar').symlink_to('/etc/passwd')"
    )

    assert run.exit_code == 0
    assert not (run.out / "compiled.tar").is_symlink()
    assert read_kept(run) == {NAME: b"code"}
