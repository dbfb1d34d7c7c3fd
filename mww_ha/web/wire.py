"""The typed border: JSON and query strings → dataclasses, dataclasses → JSON, and the JSON schema of both.

A type is what an annotation can say: ``str``, ``int``, ``float``, ``bool``, ``None``, ``Literal``, a ``StrEnum``, a
union, ``list[T]``, ``tuple[T, ...]``, ``Mapping[str, T]``, a dataclass, ``Any``; ``Annotated[str, Text(...)]`` and
``Annotated[int, Number(...)]`` narrow it. A union of dataclasses is told apart by its field ``kind``.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import math
import re
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from mww_ha.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Narrows a text. ``pattern`` must match all of it, in a form that Python and JSON schema read alike."""

    pattern: str = ""
    longest: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """Narrows a number, both ends included."""

    least: int
    most: int


# --- Reading ---------------------------------------------------------------------------------------------------------


def read(value: Any, kind: Any, where: str) -> Any:
    """``value``, parsed JSON, as a ``kind``. Raises InputError that names ``where`` and what it should be."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        made = read(value, arguments[0], where)
        for rule in arguments[1:]:
            _check(made, rule, where)
        return made
    if kind is Any:
        return value
    if origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
        raise InputError(f"{where} is {_shown(value)}", hint="use one of " + ", ".join(map(str, arguments)))
    if origin in (typing.Union, types.UnionType):
        return _read_union(value, arguments, where)
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise InputError(f"{where} is no list", hint="write it in square brackets")
        made = [read(item, arguments[0], f"{where}[{place}]") for place, item in enumerate(value)]
        return made if origin is list else tuple(made)
    if dataclasses.is_dataclass(kind):
        return _read_fields(value, typing.cast("type[Any]", kind), where)
    if isinstance(kind, type) and isinstance(value, kind) and isinstance(value, bool) is (kind is bool):
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise InputError(f"{where} is {_shown(value)}", hint="half of a character cannot be written down")
        return value
    raise InputError(f"{where} is {_shown(value)}", hint=f"it must be a {getattr(kind, '__name__', kind)}")


def _read_union(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    rest = [kind for kind in kinds if kind is not type(None)]
    if len(rest) == 1:
        return read(value, rest[0], where)
    by_kind = {_kind_of(kind): kind for kind in rest}
    if not isinstance(value, dict):
        raise InputError(f"{where} is no object", hint="write it in braces, with a kind")
    name = value.get("kind")
    if not isinstance(name, str) or name not in by_kind:
        raise InputError(f"{where}: kind is {_shown(name)}", hint="use one of " + ", ".join(by_kind))
    return read(value, by_kind[name], where)


def _kind_of(kind: Any) -> str:
    return str(typing.get_args(_hints(kind)["kind"])[0])


_known_hints: dict[Any, dict[str, Any]] = {}


def _hints(kind: Any) -> dict[str, Any]:
    """The fields' types, found out once: a job that says a lot has its lines read a thousand times a second."""
    if kind not in _known_hints:
        _known_hints[kind] = typing.get_type_hints(kind, include_extras=True)
    return _known_hints[kind]


def _read_fields(value: Any, kind: type[Any], where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where} is no object", hint="write it in braces")
    hints = _hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise InputError(f"{where} has the unknown key {_shown(name)}", hint="known keys: " + ", ".join(fields))
    for name, field in fields.items():
        if name not in value and _is_required(field):
            raise InputError(f"{where} lacks {name}", hint="known keys: " + ", ".join(fields))
    return kind(**{name: read(item, hints[name], f"{where}.{name}") for name, item in value.items()})


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def read_query(values: collections.abc.Mapping[str, str], kind: type[Any]) -> Any:
    """A query string as the dataclass ``kind``; keys it does not know are passed over. Raises InputError."""
    hints = _hints(kind)
    made: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in values:
            made[field.name] = read_text(values[field.name], hints[field.name], field.name)
        elif _is_required(field):
            raise InputError(f"{field.name} is missing", hint=f"add ?{field.name}=...")
    return kind(**made)


def read_text(text: str, kind: Any, where: str) -> Any:
    """A text of an address or a query as a ``kind``. Raises InputError."""
    plain = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    if plain is int:
        if not re.fullmatch(r"-?[0-9]{1,15}", text, re.ASCII):
            raise InputError(f"{where} is {_shown(text)}", hint="it must be a whole number")
        return read(int(text), kind, where)
    return read(text, kind, where)


def _check(value: Any, rule: Any, where: str) -> None:
    if isinstance(rule, Text):
        if len(value) > rule.longest:
            raise InputError(f"{where} has {len(value)} characters", hint=f"at most {rule.longest}")
        if rule.pattern and not re.fullmatch(rule.pattern, value, re.ASCII):
            raise InputError(f"{where} is {_shown(value)}", hint=f"it must look like {rule.pattern}")
    if isinstance(rule, Number) and not rule.least <= value <= rule.most:
        raise InputError(f"{where} is {value}", hint=f"it must be from {rule.least} to {rule.most}")


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- Writing ---------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """``value`` in what JSON can hold; a number that JSON cannot hold becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, collections.abc.Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


# --- Schema ----------------------------------------------------------------------------------------------------------


def schema(kind: Any, components: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of ``kind``; dataclasses are put into ``components`` by name and referred to."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        made = schema(arguments[0], components)
        for rule in arguments[1:]:
            made = made | _schema_of_rule(rule)
        return made
    simple = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    if kind in simple:
        return {"type": simple[kind]}
    if kind is Any:
        return {}
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema(argument, components) for argument in arguments]}
    if origin in (list, tuple):
        return {"type": "array", "items": schema(arguments[0], components)}
    if origin in (dict, collections.abc.Mapping):
        return {"type": "object", "additionalProperties": schema(arguments[1], components)}
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        return {"type": "string", "enum": [str(item) for item in kind]}
    if dataclasses.is_dataclass(kind):
        return _schema_of_fields(typing.cast("type[Any]", kind), components)
    raise TypeError(f"no JSON schema for {kind}")


def _schema_of_rule(rule: Any) -> dict[str, Any]:
    if isinstance(rule, Text):
        # JSON schema searches, we match all
        return {"maxLength": rule.longest} | ({"pattern": f"^(?:{rule.pattern})$"} if rule.pattern else {})
    if isinstance(rule, Number):
        return {"minimum": rule.least, "maximum": rule.most}
    raise TypeError(f"no JSON schema for {rule}")


def _schema_of_fields(kind: type[Any], components: dict[str, Any]) -> dict[str, Any]:
    name, text = kind.__name__, (inspect.getdoc(kind) or "").split("\n\n")[0]
    if name in components and components[name].get("description", text) != text:
        raise TypeError(f"two types are called {name}")
    if name not in components:
        components[name] = {}  # a type may hold itself
        hints = _hints(kind)
        fields = dataclasses.fields(kind)
        components[name] = {
            "type": "object",
            "description": text,
            "properties": {field.name: schema(hints[field.name], components) for field in fields},
            "required": [f.name for f in fields if _is_required(f) or f.name == "kind"],
            "additionalProperties": False,
        }
    return {"$ref": f"#/components/schemas/{name}"}
