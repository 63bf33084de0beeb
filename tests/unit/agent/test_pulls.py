"""How far a pull is, and what a failed one means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone_agent.core.pulls import MAX_LAYERS, PullProgress, classify_pull_problem
from touchstone_agent.protocol.messages import Refusal


def line(name, status, current=None, total=None):
    detail = {} if total is None else {"current": current, "total": total}
    return {"id": name, "status": status, "progressDetail": detail}


def test_a_pull_is_told_by_its_layers():
    pull_progress = PullProgress()
    assert (pull_progress.percent, pull_progress.text) == (0, "the image's registry is asked")
    pull_progress.take({"id": "1", "status": "Pulling from team/trainer"})
    for name in "abc":
        pull_progress.take(line(name, "Pulling fs layer"))
    assert (pull_progress.percent, pull_progress.text) == (0, "layer 1 of 3")

    pull_progress.take(line("a", "Already exists"))
    pull_progress.take(line("b", "Downloading", 50, 100))
    assert pull_progress.text == "layer 2 of 3"
    # Of b's 70 for the way here a half, and c as large as b.
    assert pull_progress.percent == pytest.approx(17.5)
    assert pull_progress.missing_bytes == 50

    pull_progress.take(line("b", "Download complete"))
    assert pull_progress.missing_bytes == 0
    pull_progress.take(line("b", "Extracting", 100, 100))
    pull_progress.take(line("b", "Pull complete"))
    pull_progress.take(line("c", "Pull complete"))
    assert (pull_progress.percent, pull_progress.text) == (100, "layer 3 of 3")


def test_it_never_goes_back():
    pull_progress = PullProgress()
    pull_progress.take(line("a", "Pull complete"))
    pull_progress.take(line("b", "Downloading", 99, 100))
    before = pull_progress.percent
    pull_progress.take(line("c", "Downloading", 0, 10**9))
    assert pull_progress.percent == before


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["id", "status", "progressDetail", "error", "x"]),
            st.one_of(
                st.text(max_size=10),
                st.integers(),
                st.none(),
                st.sampled_from(["Downloading", "Extracting", "Pull complete"]),
                st.fixed_dictionaries({"current": st.integers(), "total": st.integers()}),
            ),
        ),
        max_size=30,
    )
)
def test_whatever_an_engine_says_is_read(lines):
    pull_progress = PullProgress()
    for item in lines:
        pull_progress.take(item)
        assert 0 <= pull_progress.percent <= 100.0001
        assert pull_progress.missing_bytes >= 0


def test_layers_are_counted_up_to_a_limit():
    pull_progress = PullProgress()
    for number in range(MAX_LAYERS + 100):
        pull_progress.take(line(str(number), "Waiting"))
    assert pull_progress.text == f"layer 1 of {MAX_LAYERS}"


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        ("unauthorized: authentication required", Refusal.IMAGE),
        ("Get http://h/v2/t/manifests/1: no basic auth credentials", Refusal.IMAGE),
        ("denied: requested access to the resource is denied", Refusal.IMAGE),
        ("manifest for h/t@sha256:0 not found: manifest unknown: manifest unknown", Refusal.IMAGE),
        ("write /var/lib/docker/tmp/x: no space left on device", Refusal.DISK),
        ("dial tcp 127.0.0.1:5000: connect: connection refused", None),
        ("received unexpected HTTP status: 503 Service Unavailable", None),
        ("unexpected EOF", None),
        ("context deadline exceeded", None),
    ],
)
def test_what_an_engine_says_of_a_failed_pull_has_a_meaning(said, refusal):
    meaning = classify_pull_problem(said)
    assert (meaning and meaning[1]) == refusal
