from __future__ import annotations

import pytest

from touchstone_agent.pod.home import PodHome, write_json
from touchstone_agent.pod.lease import find_lease, open_lease, renew_lease


def test_a_lease_lasts_until_it_was_said_to(home: PodHome) -> None:
    renew_lease(home, until=123.456789)
    assert find_lease(home) == pytest.approx(123.456789)


def test_a_restart_of_the_container_keeps_the_lease(home: PodHome) -> None:
    renew_lease(home, until=50)
    open_lease(home, kernel_boot="k", until=900)
    assert find_lease(home) == 50


def test_a_restart_of_the_machine_begins_another(home: PodHome) -> None:
    """Its clock begins anew: the old time stamp would last for days, or be over at once."""
    renew_lease(home, until=50)
    open_lease(home, kernel_boot="k2", until=900)
    assert find_lease(home) == 900


def test_a_pod_that_ends_is_not_kept_alive(home: PodHome) -> None:
    renew_lease(home, until=50)
    write_json(home.ending_file, {"reason": "over"})
    renew_lease(home, until=900)
    assert find_lease(home) == 50


def test_before_the_first_boot_there_is_nothing_to_renew(tmp_path) -> None:
    home = PodHome(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        renew_lease(home, until=1)
    assert find_lease(home) is None


def test_renewing_writes_nothing(home: PodHome) -> None:
    """A full disk must not end the pod."""
    before = home.lease_file.read_bytes()
    home.state.chmod(0o500)
    renew_lease(home, until=77)
    home.state.chmod(0o700)
    assert (home.lease_file.read_bytes(), find_lease(home)) == (before, 77)
