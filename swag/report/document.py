"""The JSON file: `Results`, field for field, under a schema name and a version.

    {"schema": "swag.report", "version": 1, "kind": "classification", "title": …, "n_rows": …, "methods": […],
     "baseline": …, "settings": {"n_bins", "n_bootstrap", "level", "seed"},
     "metrics": [{"key", "label", "unit", "direction", "definition", "interval"}, …],
     "scores": {method: {metric: {"value", "low", "high", "mark", "infinite_rows"}}},
     "differences": {method: {metric: {"value", "low", "high", "verdict"}}},
     "summary": […], "notes": […], "provenance": {…},
     "classification": {…} or null, "regression": {…} or null}

Numbers are JSON numbers; infinities are the strings "Infinity" and "-Infinity"; null says that there is no
figure. NaN does not occur. Keys come in the order of the fields, so the same results give the same bytes. A
reader of version n reads every version up to n.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from swag.errors import InputError
from swag.report.results import Results

SCHEMA = "swag.report"
VERSION = 1

_INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}


def to_dict(results: Results) -> dict[str, Any]:
    """JSON-ready nested dicts and lists."""
    return {"schema": SCHEMA, "version": VERSION, **_encode(results)}


def to_json(results: Results) -> str:
    """The file's text, ending in a newline."""
    return json.dumps(to_dict(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_dict(document: Any, name: str = "document") -> Results:
    """`Results` from what `to_dict` gave.

    Args:
        document: Nested dicts and lists.
        name: What to call it in errors, e.g. the file's name.

    Raises:
        InputError: another schema, a newer version, or fields that are missing or of the wrong type.
    """
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        raise InputError(
            f'{name}: not a report (no "schema": {SCHEMA!r}); pass a file that report.save wrote'
        )
    if document.get("version") != VERSION:
        raise InputError(
            f"{name}: schema version {document.get('version')!r}, this library reads {VERSION}; "
            "write it again with this version of swag"
        )
    fields = {key: value for key, value in document.items() if key not in ("schema", "version")}
    try:
        decoded = _decode(Results, fields, name)
    except RecursionError:
        raise InputError(f"{name}: nested too deeply; pass a file that report.save wrote") from None
    assert isinstance(decoded, Results)
    return decoded


def from_json(text: str, name: str = "document") -> Results:
    """`Results` from a JSON file's text; see `from_dict`."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InputError(f"{name}: not JSON ({error}); the file may be cut short: write it again") from None
    return from_dict(document, name)


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "Infinity" if value > 0 else "-Infinity" if value < 0 else None
    return value


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _decode(arguments[0], value, where)
    if origin is typing.Literal:
        return _expect(value in arguments, value, where, f"one of {list(arguments)}")
    if origin is tuple:
        _expect(isinstance(value, list), value, where, "a list")
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        _expect(isinstance(value, Mapping), value, where, "an object")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        _expect(isinstance(value, Mapping), value, where, "an object")
        return _decode_fields(kind, value, where)
    if kind is float:
        if isinstance(value, str) and value in _INFINITIES:
            return _INFINITIES[value]
        return float(
            _expect(isinstance(value, int | float) and not isinstance(value, bool), value, where, "a number")
        )
    return _expect(isinstance(value, kind) and not isinstance(value, bool), value, where, kind.__name__)


def _decode_fields(kind: Any, value: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    missing = [name for name in hints if name not in value]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing; pass a file that report.save wrote")
    return kind(**{name: _decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


def _expect(holds: bool, value: Any, where: str, wanted: str) -> Any:
    if not holds:
        raise InputError(
            f"{where}: got {str(value)[:40]!r}, wanted {wanted}; pass a file that report.save wrote"
        )
    return value
