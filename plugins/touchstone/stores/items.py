"""
Items of DynamoDB's answers, as they came.

botocore walks through every value of every item by its model, to leave it as it is: ten times what
reading a list takes otherwise. What it is handed here has no items in it, and they are put back
behind it. Bytes in an item would stay base64; no record has any.
"""

from __future__ import annotations

import json
from typing import Any, Final

OPERATIONS: Final = {
    "GetItem": "Item",
    "Query": "Items",
    "Scan": "Items",
    "BatchGetItem": "Responses",
}
"""Where an answer has its items, by operation."""

_OK: Final = 200


def keep_items(client: Any) -> None:
    """
    Let a client of DynamoDB leave items as they came; the rest of an answer is read as before.

    :param client: It may have been told before.
    """
    for operation, name in OPERATIONS.items():
        client.meta.events.register(
            f"before-parse.dynamodb.{operation}", _build(name), unique_id=f"touchstone-{operation}"
        )


def _build(name: str) -> Any:
    def take_out(response_dict: Any, customized_response_dict: Any, **_: object) -> None:
        if response_dict["status_code"] != _OK:
            return
        try:
            answer = json.loads(response_dict["body"])
        except ValueError:
            return  # botocore says what is wrong with it
        if isinstance(answer, dict) and name in answer:
            customized_response_dict[name] = answer.pop(name)
            response_dict["body"] = json.dumps(answer).encode()

    return take_out
