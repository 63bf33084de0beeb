"""The API describes itself, to those who are logged in, and every route has its words."""

from __future__ import annotations

from touchstone.ui.routes.description import Description


def test_every_route_is_described_in_words_for_callers(engineer):
    document = engineer.get("/api/v1/openapi.json").json()

    found = Description.model_validate(document)

    assert document["servers"] == [{"url": "/touchstone"}]
    assert len(found.paths) >= 38
    for address, operations in found.paths.items():
        for operation in operations.values():
            assert operation.summary.endswith((".", ";")), address
            assert ":param" not in operation.summary + operation.more
            assert ":raises" not in operation.summary + operation.more
    sent = found.paths["/api/v1/submissions"]["post"]
    assert [each.name for each in sent.told] == ["Idempotency-Key"]
    assert sent.body is not None


def test_problems_are_described_as_they_are_answered(engineer):
    document = engineer.get("/api/v1/openapi.json").json()

    answers = document["paths"]["/api/v1/submissions/{submission_id}"]["get"]["responses"]

    assert {"200", "401", "403", "404", "422", "503"} <= set(answers)
    content = answers["404"]["content"]["application/problem+json"]["schema"]
    assert content == {"$ref": "#/components/schemas/Problem"}


def test_a_stranger_is_told_nothing(anonymous):
    assert anonymous.get("/api/v1/openapi.json").status_code == 401
