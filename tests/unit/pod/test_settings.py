from __future__ import annotations

import pytest

from touchstone_agent.pod.settings import (
    DEFAULT_LEASE_SECONDS,
    DEFAULT_LIFE_SECONDS,
    read_settings,
    select_environment,
)

GOOD = {
    "PUBLIC_KEY": "ssh-ed25519 AAAA account",
    "SSH_PUBLIC_KEY": "ssh-ed25519 BBBB order\nssh-ed25519 CCCC more",
    "RUNPOD_POD_ID": "p1",
    "RUNPOD_API_KEY": "sesame",
    "TOUCHSTONE_POD_LEASE_SECONDS": "60",
    "TOUCHSTONE_POD_LIFE_SECONDS": "3600",
    "TOUCHSTONE_POD_API_URL": "https://api.example/",
}


def test_what_the_order_says_is_taken() -> None:
    settings = read_settings(GOOD)
    assert (settings.lease_seconds, settings.life_seconds) == (60, 3600)
    assert (settings.pod_id, settings.api_key) == ("p1", "sesame")
    assert settings.api_url == "https://api.example"
    assert settings.problems == ()


def test_the_orders_keys_log_in_and_outrank_the_accounts() -> None:
    more = ("ssh-ed25519 BBBB order", "ssh-ed25519 CCCC more")
    assert read_settings(GOOD).public_keys == more
    account = {"SSH_PUBLIC_KEY": "", "PUBLIC_KEY": "ssh-ed25519 AAAA account\nssh-rsa DDDD another"}
    assert read_settings({**GOOD, **account}).public_keys == ("ssh-ed25519 AAAA account",)
    assert read_settings({**GOOD, "SSH_PUBLIC_KEY": "", "PUBLIC_KEY": "\n"}).public_keys == ()


@pytest.mark.parametrize("text", ["", "soon", "-1", "0", "nan", "inf"])
def test_a_first_process_starts_whatever_it_is_told(text: str) -> None:
    """One that refuses to start is started again for ever, and billed."""
    settings = read_settings(
        {"TOUCHSTONE_POD_LEASE_SECONDS": text, "TOUCHSTONE_POD_LIFE_SECONDS": text}
    )
    assert settings.lease_seconds == DEFAULT_LEASE_SECONDS
    assert settings.life_seconds == DEFAULT_LIFE_SECONDS
    assert len(settings.problems) == 4


def test_the_key_is_not_shown() -> None:
    assert "sesame" not in repr(read_settings(GOOD))


def test_a_trainer_gets_what_the_image_sets_and_nothing_of_the_pod() -> None:
    image = {"PATH": "/bin", "XLA_FLAGS": "--x", "CUDA_HOME": "/c", "OMP_NUM_THREADS": "1"}
    own = {"HTTPS_PROXY": "http://p"}
    pod = {**GOOD, "RUNPOD_DC_ID": "d", "HOME": "/root", "SECRET": "s", "TOUCHSTONE_X": "1"}
    assert select_environment({**pod, **image, **own}) == {"image": image, "own": own}
