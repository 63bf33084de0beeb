"""Archives that are cheap to send and dear to read, many at once."""

from __future__ import annotations

import gzip
import io
import tarfile
import threading
import time
import uuid

import httpx
import pytest

from security.attacks import Pulse, User

MIB = 1024**2
AT_ONCE = 45


def build_header(name, size, kind=tarfile.REGTYPE):
    """Return a tar header of any size, also a negative one."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = b"%011o\0" % size if size >= 0 else tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    return bytes(block)


def pack(*blocks):
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9) as stream:
        for block in blocks:
            stream.write(block)
    return out.getvalue()


def build_backward(mib=500):
    """Return an archive whose last member has a negative size, which leads back to its first."""
    zeros = (b"\0" * MIB for _ in range(mib))
    return pack(
        build_header("start", mib * MIB),
        *zeros,
        build_header("forward", 65536),
        b"\0" * 65536,
        build_header("back", -(512 + 65536 + 512)),
        b"\0" * 10240,
    )


def build_long_header(mib=400):
    """Return an archive with one extended header of that size."""
    return pack(
        build_header("x", mib * MIB, tarfile.XHDTYPE),
        *(b"\0" * MIB for _ in range(mib)),
        build_header("file", 1),
        b"a".ljust(512, b"\0"),
        b"\0" * 1024,
    )


def build_crowd(members=200_000):
    """Return an archive of very many empty files."""
    return pack(*(build_header(f"f{n}", 0) for n in range(members)), b"\0" * 1024)


BOMBS = {"backward": build_backward, "long header": build_long_header, "crowd": build_crowd}


@pytest.fixture(scope="module")
def engineer(installation):
    return User(installation, "engineer")


def send(installation, token, body):
    with httpx.Client(
        base_url=installation.stack["urls"]["airflow"],
        headers={"Authorization": token, "Content-Type": "application/gzip"},
        timeout=120,
    ) as client:
        return client.post("/touchstone/api/v1/content", content=body)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_by_name(installation, engineer, bomb):
    answer = send(installation, engineer.http.headers["Authorization"], BOMBS[bomb]())

    assert answer.status_code == 400
    assert answer.json()["field"] == "content"


def test_many_bombs_at_once_stop_nobody(installation, engineer, unharmed):
    token, body = engineer.http.headers["Authorization"], build_backward()
    answers = []

    def attack():
        while True:
            answer = send(installation, token, body)
            if answer.status_code not in (429, 503):
                break
            time.sleep(float(answer.headers["Retry-After"]))
        answers.append((answer.status_code, answer.json().get("field")))

    with Pulse(installation, token) as pulse:
        threads = [threading.Thread(target=attack, daemon=True) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(600)

    pulse.check()
    assert answers == [(400, "content")] * AT_ONCE


def test_an_upload_that_never_goes_on_is_ended(installation, engineer):
    url = httpx.URL(installation.stack["urls"]["airflow"])
    import socket

    head = (
        "POST /touchstone/api/v1/content HTTP/1.1\r\nHost: x\r\nContent-Type: application/gzip\r\n"
        f"Authorization: {engineer.http.headers['Authorization']}\r\nContent-Length: 1000\r\n\r\nab"
    )
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(head.encode())
        # Ends when the other side gives up: with an answer, or by closing.
        first = connection.recv(4096)
    assert not first or first.startswith(b"HTTP/1.1 4")


def test_an_upload_is_of_use_to_its_own_bytes_only(installation, engineer):
    answer = engineer.trigger({"source": "upload:" + "0" * 64}, f"up-{uuid.uuid4().hex[:8]}")
    run_id = answer.json()["dag_run_id"]

    assert installation.wait_for_run_end(run_id) == "failed"
    assert installation.submission(run_id)["reason"].startswith("source: ")
