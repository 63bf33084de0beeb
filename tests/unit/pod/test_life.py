from __future__ import annotations

import pytest

from touchstone_agent.pod.life import Life, find_end, resume_life

BORN = Life(kernel_boot="k1", at=100.0, lived=0.0, noted_at=5000.0)


@pytest.mark.parametrize(
    ("uptime", "lease_until", "reason"),
    [
        (150.0, 200.0, None),
        (199.9, 200.0, None),
        (200.0, 200.0, "lease"),
        (699.0, 900.0, None),
        (700.0, 900.0, "lived for the 600 s"),
        (700.0, 200.0, "lived for the 600 s"),
    ],
)
def test_a_pod_ends_with_its_lease_or_its_life(
    uptime: float, lease_until: float, reason: str | None
) -> None:
    found = find_end(uptime=uptime, lease_until=lease_until, life=BORN, life_seconds=600)
    assert found is None if reason is None else reason in str(found)


def resume(saved: Life | None, **changes: object) -> Life:
    values = {"kernel_boot": "k1", "uptime": 400.0, "unix_time": 5300.0, **changes}
    return resume_life(saved, **values)  # type: ignore[arg-type]


def test_a_first_boot_begins_a_life() -> None:
    life = resume(None)
    assert (life.count(400.0), life.count(410.0)) == (0.0, 10.0)


def test_a_restart_does_not_prolong_it() -> None:
    assert resume(BORN).count(400.0) == 300.0


def test_a_restart_of_the_machine_does_not_either() -> None:
    life = resume(BORN, kernel_boot="k2", uptime=20.0, unix_time=5300.0)
    assert life.count(25.0) == 305.0


def test_a_calendar_that_was_set_back_takes_nothing_away() -> None:
    before = Life(kernel_boot="k1", at=100.0, lived=50.0, noted_at=5000.0)
    life = resume(before, kernel_boot="k2", uptime=20.0, unix_time=1000.0)
    assert life.count(20.0) == 50.0


def test_it_comes_back_from_disk_as_it_was() -> None:
    assert Life.load(BORN.dump()) == BORN


@pytest.mark.parametrize("data", [{}, {**BORN.dump(), "at": None}, {**BORN.dump(), "at": "x"}])
def test_what_is_no_life_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no life|convert"):
        Life.load(data)
