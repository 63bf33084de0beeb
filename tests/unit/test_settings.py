from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from touchstone.settings import RunPodSettings

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ann@example"


@pytest.mark.parametrize("key", [KEY, "ecdsa-sha2-nistp256 AAAA", "sk-ssh-ed25519@openssh.com A b"])
def test_an_admins_public_key_is_a_line_of_a_json_list(monkeypatch, key):
    monkeypatch.setenv("TOUCHSTONE_RUNPOD_SSH_KEYS", json.dumps([f" {key}\n"]))
    assert RunPodSettings().ssh_keys == (key,)


@pytest.mark.parametrize(
    "text",
    ["", "ann", f'command="x" {KEY}', f"{KEY}\n{KEY}", "-----BEGIN OPENSSH PRIVATE KEY-----"],
)
def test_what_is_no_public_key_is_refused_before_it_reaches_a_pod(text):
    with pytest.raises(ValidationError, match="ssh_keys"):
        RunPodSettings(ssh_keys=(text,))
