"""Walks a parsed file beside its schema and names every problem, where msgspec alone would stop at the first.

msgspec stays the judge of each single value; this module goes through mappings and lists, and says its verdict as a
sentence with a way out.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct


class Invalid(Enum):
    """What the walk returns in the place of a value that it has complained about."""

    INVALID = "invalid"


INVALID = Invalid.INVALID
Complain = Callable[[str, str], None]

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlong = 24
_short.maxlevel = 2


def shown(value: object) -> str:
    """Return the value as an error sentence shows it: quoted, on one line, short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= 10**24:
        return "a very large number"
    return _short.repr(value).replace("\n", " ")


def join(path: str, key: object) -> str:
    """Return the path of a key below ``path``."""
    text = key if isinstance(key, str) and key.isprintable() and len(key) <= 64 else shown(key)
    return f"{path}.{text}" if path and not path.endswith("_") else f"{path}{text}"


def walk(kind: Any, value: Any, path: str, complain: Complain) -> Any:
    """Return ``value`` converted to the type ``kind``, or INVALID after complaining.

    A list keeps INVALID in the place of its invalid items; a mapping or struct with an invalid part is INVALID.
    """
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    origin = get_origin(bare)
    if isinstance(bare, type) and issubclass(bare, Struct):
        return _struct(bare, value, path, complain)
    if origin is list:
        return _list(get_args(bare)[0], value, path, complain)
    if origin is tuple:
        return _tuple(get_args(bare), value, path, complain)
    if origin is dict:
        return _dict(get_args(bare), value, path, complain)
    return _leaf(kind, bare, value, path, complain)


def fields(kind: type[Struct], value: Mapping[Any, Any], path: str, complain: Complain) -> dict[str, Any]:
    """Return every known key of the struct with its converted value, default or INVALID; complain of all others."""
    known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in value:
        if not isinstance(key, str) or key not in known:
            complain(join(path, key), f"unknown key; {_nearest(key, known, path)}")
    result: dict[str, Any] = {}
    for name, field in known.items():
        if name in value:
            result[name] = walk(field.type, value[name], join(path, name), complain)
        elif field.default is not NODEFAULT:
            result[name] = field.default
        elif field.default_factory is not NODEFAULT:
            result[name] = field.default_factory()
        else:
            complain(join(path, name), f"missing; give {_wanted(field.type)}")
            result[name] = INVALID
    return result


def _struct(kind: type[Struct], value: Any, path: str, complain: Complain) -> Any:
    if not isinstance(value, Mapping):
        keys = ", ".join(kind.__struct_encode_fields__)
        complain(path, f"{shown(value)} is not a mapping; give a mapping with keys among {keys}")
        return INVALID
    before = len(value) - sum(1 for key in value if key in kind.__struct_encode_fields__)
    parts = fields(kind, value, path, complain)
    return INVALID if before or any(_invalid(part) for part in parts.values()) else kind(**parts)


def _invalid(part: Any) -> bool:
    return part is INVALID or (isinstance(part, list) and INVALID in part)


def _list(item: Any, value: Any, path: str, complain: Complain) -> Any:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        complain(path, f"{shown(value)} is not a list; give a list, one item each, or []")
        return INVALID
    return [walk(item, part, f"{path}[{index}]", complain) for index, part in enumerate(value)]


def _tuple(items: tuple[Any, ...], value: Any, path: str, complain: Complain) -> Any:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) != len(items):
        complain(
            path, f"{shown(value)} is not a list of {len(items)}; give {len(items)} values, such as [61000, 62999]"
        )
        return INVALID
    pairs = enumerate(zip(items, value, strict=True))
    parts = tuple(walk(item, part, f"{path}[{index}]", complain) for index, (item, part) in pairs)
    return INVALID if INVALID in parts else parts


def _dict(kinds: tuple[Any, ...], value: Any, path: str, complain: Complain) -> Any:
    if not isinstance(value, Mapping):
        complain(path, f"{shown(value)} is not a mapping; give a mapping, one key each, or {{}}")
        return INVALID
    result = {}
    for key, part in value.items():
        where = join(path, key)
        result[walk(kinds[0], key, where, complain)] = walk(kinds[1], part, where, complain)
    return INVALID if INVALID in result or INVALID in result.values() else result


def _leaf(kind: Any, bare: Any, value: Any, path: str, complain: Complain) -> Any:
    try:
        return msgspec.convert(_plain(value), kind)
    except (msgspec.ValidationError, UnicodeError):
        complain(path, _sentence(kind, bare, value))
        return INVALID


def _plain(value: Any) -> Any:
    """Return the value without a subclass of its type around it, as other programs' tagged strings and numbers have."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else value


def _wanted(kind: Any) -> str:
    """Return `_expected` with the name of the thing before it, for a value that is not there at all."""
    limits = _limits(kind) if get_origin(kind) is Annotated else None
    return f"{limits.extra['what']}, {_expected(kind)}" if limits is not None and limits.extra else _expected(kind)


def _limits(kind: Any) -> Meta | None:
    return next((part for part in get_args(kind)[1:] if isinstance(part, Meta)), None)


def _expected(kind: Any) -> str:
    """Return what to give for a value of that type."""
    limits = _limits(kind) if get_origin(kind) is Annotated else None
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if limits is not None and limits.extra:
        return str(limits.extra["give"])
    if limits is not None:
        noun = "an integer" if bare is int else "a number"
        return f"{noun} from {limits.ge} to {limits.le}" if limits.ge != limits.le else str(limits.ge)
    return {bool: "true or false", str: "a string"}.get(bare) or "one of " + ", ".join(e.value for e in _enum(bare))


def _enum(bare: Any) -> list[Enum]:
    """Return the members of an enumeration, or of the one in an optional."""
    kinds = [part for part in (bare, *get_args(bare)) if isinstance(part, type) and issubclass(part, Enum)]
    return list(kinds[0])


def _sentence(kind: Any, bare: Any, value: Any) -> str:
    limits = _limits(kind) if get_origin(kind) is Annotated else None
    expected = _expected(kind)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if limits is not None and limits.extra:
        return f"{shown(value)} is not {limits.extra['what']}; give {expected}"
    if limits is not None and number and not (bare is int and isinstance(value, float)):
        where = f"in {limits.ge}..{limits.le}" if limits.ge != limits.le else str(limits.ge)
        return f"{shown(value)} is not {where}; give {expected}"
    if limits is not None:
        noun = "an integer" if bare is int else "a number"
        quotes = " without quotes" if isinstance(value, str) and value.isdecimal() else ""
        return f"{shown(value)} is not {noun}; give {expected}{quotes}"
    if bare is str:
        return f"{shown(value)} is not a string; write it in quotes"
    if bare is bool:
        return f"{shown(value)} is not a boolean; give true or false without quotes"
    return f"{shown(value)} is not {expected.replace('one', 'any', 1)}; give one of them"


def _nearest(key: object, known: Mapping[str, object], path: str) -> str:
    prefix = path if path.endswith("_") else ""
    near = difflib.get_close_matches(str(key)[:64], known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {prefix}{near[0]}?"
    return "the keys here are " + ", ".join(f"{prefix}{name}" for name in known)
