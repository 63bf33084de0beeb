"""Records that are written back as they were stored, with what other versions added to them."""

from __future__ import annotations

from collections.abc import Set
from typing import Self, cast

from pydantic import ConfigDict, JsonValue

from touchstone.core.records.stored import StoredRecord


class KeptRecord(StoredRecord):
    """
    A record that is stored with the fields that somebody has set, and no others.

    A server's record is shown as it is stored, so that a default that nobody has written must not
    appear in it.
    """

    def dump(self) -> dict[str, JsonValue]:
        """Return the fields that were stored or set, as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def change(self, **fields: object) -> Self:
        """
        Return the record with other values in some fields.

        :param fields: The values by field, as the model has them: nothing is parsed here.
        :raises TypeError: If the record has no field of that name: no type checker sees it.
        """
        unknown = fields.keys() - type(self).model_fields.keys()
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {sorted(unknown)[0]}")
        return self.model_copy(update=fields)

    def pick(self, names: Set[str]) -> Self:
        """Return the record with these fields only; they are stored also where they are empty."""
        kept = {name: getattr(self, name) for name in names}
        return cast("Self", type(self).model_construct(_fields_set=set(names), **kept))

    def mark_set(self, names: Set[str]) -> Self:
        """Return the record with these fields to be stored also where they have their defaults."""
        marked = self.model_copy()
        marked.model_fields_set.update(names)
        return marked


class Part(KeptRecord):
    """
    A part of a record, which is written whole when anything in it changes.

    What another version has added to it is therefore kept along with it.
    """

    model_config = ConfigDict(extra="allow")


class SparseRecord(Part):
    """
    A record, or a part of one, that keeps all that it does not name.

    A field that was never set is absent, which is not the same as null: a null cannot be the key of
    an index.
    """

    @classmethod
    def list_wanted(cls) -> tuple[str, ...]:
        """Return nothing: all of the record is wanted, also what the model does not name."""
        return ()

    def change(self, **fields: object) -> Self:
        """
        Return the record with other values, parsed like those of a stored one.

        :param fields: The new values by field.
        :raises TypeError: If the record has no such field.
        :raises ValidationError: If a value does not fit its field.
        """
        return StoredRecord.change(self, **fields)


class StoredPart(SparseRecord):
    """
    A part of a record that is an object, because it may be larger than a record.

    :param key: Its key in the content bucket.
    :param sha256: Its digest.
    :param size: Its size in bytes.
    """

    key: str
    sha256: str
    size: int
