"""What all records have in common: they are read from plain JSON values, and written as such."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    JsonValue,
    PlainSerializer,
    ValidationError,
)

from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.words import describe_refusal


class RecordUnreadable(PermanentError):
    """
    A stored record does not make sense.

    It exists, so nobody may act as if it did not: the caller leaves alone what the record is about.
    """


Whole = TypeVar("Whole", bound=BaseModel)
Model = TypeVar("Model", bound="StoredRecord")


def _read_time(value: object) -> object:
    if isinstance(value, str):
        return read_time(value)
    if not isinstance(value, datetime):
        # A number would be taken as seconds since 1970, and nobody ever writes one.
        raise ValueError("is no time")
    return value


Time = Annotated[
    datetime,
    BeforeValidator(_read_time),
    PlainSerializer(datetime.isoformat, return_type=str),
]
"""A moment, aware, stored as ISO 8601. One that was stored without a zone is taken as UTC."""

Usd = Annotated[Decimal, PlainSerializer(str, return_type=str)]
"""An amount of US dollars, stored as text, so that no binary fraction ever touches it."""


class StoredRecord(BaseModel):
    """
    A record, or a part of one, as the rest of the code sees it.

    A model names every field that the code reads. A field that it does not name was written by
    another version, and survives a change: the store writes what has changed, and nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def load(cls, stored: Mapping[str, object]) -> Self:
        """
        Parse a stored record.

        :param stored: Plain JSON values.
        :raises RecordUnreadable: Naming the first field that does not make sense.
        """
        try:
            return cls.model_validate(stored)
        except ValidationError as error:
            raise RecordUnreadable(
                f"{cls.__name__.lower()} record: {describe_refusal(error)}"
            ) from error

    @classmethod
    def list_wanted(cls) -> tuple[str, ...]:
        """Return the stored fields that a reader of this model wants; empty for all there are."""
        return tuple(cls.model_fields)

    def dump(self) -> dict[str, JsonValue]:
        """Return the record as plain JSON values."""
        return self.model_dump(mode="json")

    def change(self, **changes: object) -> Self:
        """
        Return the record with other values, checked like those of a stored one.

        :param changes: The new values by field.
        :raises TypeError: If the record has no such field.
        :raises ValidationError: If a value does not fit its field.
        """
        fields = type(self).model_fields
        if unknown := changes.keys() - fields.keys():
            raise TypeError(f"{type(self).__name__} has no field {min(unknown)!r}")
        kept = {name: getattr(self, name) for name in self.model_fields_set & fields.keys()}
        return type(self).model_validate({**kept, **(self.model_extra or {}), **changes})

    def dump_changes(self, after: Self) -> dict[str, JsonValue]:
        """Return the fields in which another state of this record differs, as they are stored."""
        before = self.dump()
        return {
            name: value
            for name, value in after.dump().items()
            if name not in before or value != before[name]
        }


def load_named(model: type[Model], name: str, stored: Mapping[str, object]) -> Model:
    """
    Return a stored record as a model.

    :param name: Which record it is, for the admin who has to mend it.
    :raises RecordUnreadable: Naming the record, and the first field that does not make sense.
    """
    try:
        return model.load(stored)
    except RecordUnreadable as error:
        raise RecordUnreadable(f"{name}: {error}") from error


def set_all(part: Whole) -> Whole:
    """Return a model all of whose fields count as set, so that a sparse record stores them all."""
    return type(part).model_validate(part.model_dump())


def read_time(text: str) -> datetime:
    """
    Return a time of a record, UTC.

    One without a zone is taken as UTC: nothing new is written so, but a record may hold one from
    before that was refused, and comparing it with others would raise for ever.

    :param text: ISO 8601.
    :raises ValueError: If it is none.
    """
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
