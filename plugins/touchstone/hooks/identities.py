"""Identities of servers at AWS: one each, with one key and no more rights than it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from touchstone.stores.aws import get_error_code, translated_errors

POLICY = "touchstone-agent"
_MISSING = "NoSuchEntity"
_EXISTS = "EntityAlreadyExists"


@dataclass(frozen=True, kw_only=True)
class AccessKey:
    """
    What an identity is known to AWS by.

    :param key_id: Its id, no secret.
    :param secret: Told once, when it is made.
    """

    key_id: str
    secret: str = field(repr=False)


class Identities:
    """
    Speaks to AWS's identity service.

    :param iam: An IAM client.
    """

    def __init__(self, iam: Any) -> None:
        self._iam = iam

    def ensure(self, name: str, policy: Mapping[str, object], *, env: str) -> bool:
        """
        Make an identity with these rights and no others of its own; return whether it was missing.

        :raises TransientError: If AWS does not answer.
        :raises PermanentError: If it refuses.
        """
        with translated_errors(f"making identity {name}"):
            try:
                self._iam.create_user(
                    Path=f"/touchstone/{env}/",
                    UserName=name,
                    Tags=[{"Key": "touchstone", "Value": env}],
                )
                is_new = True
            except ClientError as error:
                if get_error_code(error) != _EXISTS:
                    raise
                is_new = False
            self._iam.put_user_policy(
                UserName=name, PolicyName=POLICY, PolicyDocument=json.dumps(policy)
            )
        return is_new

    def has_key(self, name: str, key_id: str | None) -> bool:
        """Tell whether an identity has a key of that id."""
        return key_id is not None and key_id in self._list_keys(name)

    def replace_key(self, name: str) -> AccessKey:
        """Make a key; whatever keys there were are taken away first, since nobody knows them."""
        for key_id in self._list_keys(name):
            with translated_errors(f"removing a key of identity {name}"):
                self._iam.delete_access_key(UserName=name, AccessKeyId=key_id)
        with translated_errors(f"making a key of identity {name}"):
            made = self._iam.create_access_key(UserName=name)["AccessKey"]
        return AccessKey(key_id=made["AccessKeyId"], secret=made["SecretAccessKey"])

    def remove(self, name: str) -> bool:
        """Remove an identity with its keys and rights; return whether there was one."""
        keys = self._list_keys(name)
        with translated_errors(f"removing identity {name}"):
            try:
                for key_id in keys:
                    self._iam.delete_access_key(UserName=name, AccessKeyId=key_id)
                for policy in self._iam.list_user_policies(UserName=name)["PolicyNames"]:
                    self._iam.delete_user_policy(UserName=name, PolicyName=policy)
                self._iam.delete_user(UserName=name)
            except ClientError as error:
                if get_error_code(error) != _MISSING:
                    raise
                return False
        return True

    def _list_keys(self, name: str) -> list[str]:
        with translated_errors(f"listing the keys of identity {name}"):
            try:
                found = self._iam.list_access_keys(UserName=name)["AccessKeyMetadata"]
            except ClientError as error:
                if get_error_code(error) != _MISSING:
                    raise
                return []
        return [str(key["AccessKeyId"]) for key in found]
