"""What every table of a specification is made of: base model, checked numbers, durations, readable errors.

In: values as TOML or Python gives them. Out: frozen objects, or one `InputError` that lists every fault with
its key path, value and allowed range and, for an unknown key, the nearest known one. Needs pydantic only, so
that `perpbt --help` and `perpbt validate` stay cheap.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from perpbt.errors import InputError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # its public name

JsonSchema = dict[str, Any]
Truth: TypeAlias = Annotated[bool, Field(strict=True)]
"""true or false, never "yes" or 1."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence tail: the closest known word, and all of them. Empty when nothing is known."""
    words = sorted(known)
    if not words:
        return ""
    close = difflib.get_close_matches(word, words, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} known: {', '.join(words)}"


def shown(value: object) -> str:
    """A value for an error text, cut to one short line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def fault(text: str) -> PydanticCustomError:
    """A finding inside a validator, with our own words."""
    return PydanticCustomError("perpbt", text)


@dataclass(frozen=True)
class Range:
    """Annotation of an `int` or `float` field: finite, never a bool or a string, inside the bounds given."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None

    def text(self, whole: bool) -> str:
        named = (
            ("above", self.above),
            ("at least", self.least),
            ("below", self.below),
            ("at most", self.most),
        )
        bounds = " and ".join(f"{word} {bound:g}" for word, bound in named if bound is not None)
        return f"must be a {'whole ' if whole else ''}number {bounds}".rstrip()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        whole = source is int
        bounds = {"gt": self.above, "ge": self.least, "lt": self.below, "le": self.most}
        given: dict[str, Any] = {key: bound for key, bound in bounds.items() if bound is not None}
        inner: CoreSchema = (
            core_schema.int_schema(strict=True, **given)
            if whole
            else core_schema.float_schema(strict=True, allow_inf_nan=False, **given)
        )

        def check(value: Any, validate: Callable[[Any], Any]) -> Any:
            try:  # numpy scalars become Python's
                return validate(value.item() if hasattr(value, "item") else value)
            except (ValidationError, ValueError) as error:
                raise fault(self.text(whole)) from error

        return core_schema.no_info_wrap_validator_function(check, inner)


class OrNone:
    """Annotation of an optional field: the word "none" is the same as leaving the key out."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: None if isinstance(value, str) and value == "none" else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        schema = handler(core)
        schema["anyOf"] = [
            {"const": "none"} if part == {"type": "null"} else part for part in schema["anyOf"]
        ]
        return schema


class Listed:
    """Annotation of a tuple field: a value that is not a list stands for a list of one; empty is an error."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def as_list(value: Any) -> list[Any]:
            items = value.tolist() if hasattr(value, "tolist") else value
            items = list(items) if isinstance(items, (list, tuple, range)) else [items]
            if not items:
                raise fault("must hold at least one value")
            return items

        return core_schema.no_info_before_validator_function(as_list, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        schema = handler(core)
        return {"anyOf": [schema["items"], {**schema, "minItems": 1}]}


_UNITS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
_DURATION = r"(\d+[wdhms])+"


class Duration(int):
    """A time span in whole milliseconds; reads and prints as "90s", "15m", "4h", "7d", "2w", "1d12h"."""

    @classmethod
    def parse(cls, value: object) -> Duration:
        """From text such as "1d12h" or a `timedelta`. A bare number has no unit and is a `ValueError`."""
        if isinstance(value, Duration):
            return value
        if isinstance(value, timedelta) and value >= timedelta(0) and not value % timedelta(seconds=1):
            return cls(value // timedelta(milliseconds=1))
        if isinstance(value, str) and re.fullmatch(_DURATION, value.replace(" ", "")):
            parts = re.findall(r"(\d+)([wdhms])", value)
            if len({unit for _, unit in parts}) == len(parts):
                return cls(sum(int(count) * _UNITS[unit] for count, unit in parts))
        raise ValueError('must be a duration such as "90s", "15m", "4h", "7d", "2w" or "1d12h"')

    def __str__(self) -> str:
        rest, text = int(self), ""
        for unit in "dhms":
            count, rest = divmod(rest, _UNITS[unit])
            text += f"{count}{unit}" if count else ""
        return text or "0s"

    __repr__ = __str__

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def parse(value: object) -> Duration:
            try:
                return cls.parse(value)
            except ValueError as error:
                raise fault(str(error)) from error

        return core_schema.no_info_plain_validator_function(
            parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {"type": "string", "pattern": f"^{_DURATION}$"}


class _SpecType(ModelMetaclass):
    """Makes `Policy(leverage=-1)` raise `InputError`; tables nested in another keep pydantic's own way."""

    if not TYPE_CHECKING:  # type checkers read the fields from the class, not from here

        def __call__(cls, *args: Any, **values: Any) -> Any:
            try:
                return super().__call__(*args, **values)
            except ValidationError as error:
                raise input_error(error, cls.__name__, values) from error


class Spec(BaseModel, metaclass=_SpecType):
    """Base of every table: frozen, unknown keys are errors that name the nearest known key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_nearest_key(cls, data: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(data)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, [cls._reworded(dict(entry)) for entry in error.errors(include_url=False)]
            ) from error

    @classmethod
    def _reworded(cls, entry: dict[str, Any]) -> InitErrorDetails:
        text = re.sub("^Input should be ", "must be ", entry["msg"])
        if entry["type"] == "extra_forbidden" and len(entry["loc"]) == 1:
            text = f"unknown key{nearest(str(entry['loc'][0]), cls.model_fields)}"
        elif entry["type"] == "missing":
            text = "is needed and absent"
        elif entry["type"] in ("bool_type", "bool_parsing"):
            text = "must be true or false"
        elif entry["type"] in ("model_type", "dict_type"):
            text = "must be a table of keys and values"
        kind = PydanticCustomError(entry["type"], text)
        return InitErrorDetails(type=kind, loc=entry["loc"], input=entry["input"])


def input_error(error: ValidationError, where: str, given: object) -> InputError:
    """All findings of a `ValidationError` as one `InputError`.

    `where` is the file or object, `given` the raw tables that were validated: key paths are as written there.
    """
    lines = []
    for entry in error.errors(include_url=False):
        path = key_path(entry["loc"], given)
        value = "" if entry["type"] in ("missing", "extra_forbidden") else f" = {shown(entry['input'])}"
        if not path:  # a finding about the table as a whole says in its text which keys it means
            value = ""
        lines.append(f"{path}{value}: {entry['msg']}" if path else entry["msg"])
    if len(lines) == 1:
        return InputError(f"{where}: {lines[0]}")
    return InputError(f"{where}: {len(lines)} errors\n" + "\n".join(f"  {line}" for line in lines))


def key_path(location: tuple[int | str, ...], given: object) -> str:
    """`policy.stop_loss.2.margin`: a pydantic location without what is not in the user's tables.

    Dropped are union tags (written "<tag>"), the index 0 of a scalar read as a list, keys of a short form.
    """
    path: list[str] = []
    for depth, part in enumerate(location):
        if isinstance(part, str) and part.startswith("<"):
            continue
        if isinstance(given, Mapping):
            if part not in given and (isinstance(part, int) or depth < len(location) - 1):
                continue
            given = given.get(part)
        elif isinstance(given, (list, tuple)) and isinstance(part, int):
            given = given[part] if part < len(given) else None
        elif given is not None:
            continue
        path.append(str(part))
    return ".".join(path)
