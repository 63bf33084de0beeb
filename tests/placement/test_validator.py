"""A stack that only validates: ``touchstone up --slots 0``."""

from __future__ import annotations

import secrets

import pytest

from system.installation import EXAMPLES, Installation


@pytest.fixture
def validator(tmp_path_factory):
    """A stack of its own, without slots for trainings and without RunPod."""
    made = Installation(tmp_path_factory.mktemp("validator"), env=f"t{secrets.token_hex(3)}")
    done = made.run("up", "--slots", "0")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    yield made
    assert made.run("down").returncode == 0


# A stack of its own for one test: what it shows is in tests of the parts as well.
@pytest.mark.campaign(sample=999)
def test_a_stack_without_training_slots_validates_and_refuses_what_it_cannot_train(validator):
    momentum = str(EXAMPLES / "momentum")
    accepted = validator.ask("submit", momentum, "--wait")
    assert validator.submission(accepted["submission_id"])["status"] == "accepted"
    assert validator.task(accepted["submission_id"], "validation")["server"] == "local"

    refused = validator.run("submit", momentum, "--id", "trained", "--intervals", "5", "--wait")
    assert refused.returncode == 1
    assert validator.submission("trained")["reason"] == (
        "platform: no resource can run it: local takes no trainings"
    )

    [server] = validator.ask("fleet", "status")["servers"]
    assert (server["slots"], server["validation_slots"], server["drained"]) == (0, 1, None)
    assert server["differences"] == []
    assert validator.running_attempts() == []
