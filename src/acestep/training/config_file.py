"""A YAML file against its model: all problems at once, each with its line, its value and what would be right."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from acestep.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[str | int, ...]

_MAX_BYTES = 1 << 20
_MAX_DIGITS = 100
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "~": None, "": None}
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "finite_number": "a finite number",
    "model_type": "a section of settings",
    "model_attributes_type": "a section of settings",
    "dict_type": "a section of names with a value each",
}
_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}


def read_config_file(model: type[Model], path: Path) -> Model:
    """Raises ConfigError with one line a problem, as `train.yaml:7: ...`."""
    document = _read(path)
    problems = list(document.problems)
    try:
        config = model.model_validate(document.values)
    except ValidationError as error:
        problems += [(document.line(details["loc"]), _describe(model, details)) for details in _causes(error)]
    if problems:
        lines = [f"  {path.name}:{line}: {text}" for line, text in sorted(problems)]
        count = "one problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise ConfigError(f"{path} has {count}:\n" + "\n".join(lines))
    return config


def written_as_config(values: dict[str, Any]) -> str:
    """YAML that `read_config_file` reads back equal: text that this reader would take for something else is quoted."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """A SafeDumper that knows what `_plain` takes for numbers, which YAML 1.1 does not: `1e5`."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    is_plain = text.isprintable() and isinstance(_plain(text), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


_Dumper.add_representer(str, _represent_text)


@dataclass
class _Document:
    """A file's values, the line that each was written on, and what was wrong with the YAML itself."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)

    def line(self, location: Location) -> int:
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)

    def take(self, node: yaml.Node, location: Location) -> Any:
        """The node's value, by the rules of YAML 1.2 for plain words and numbers: `1e-4` is one, `yes` is text."""
        self.lines.setdefault(location, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._take_mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.take(item, (*location, index)) for index, item in enumerate(node.value))
        quoted = isinstance(node, yaml.ScalarNode) and node.style is not None
        return node.value if quoted else _plain(node.value)

    def _take_mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append((line, "a name of a setting is to be a word; found a list or a section"))
                continue
            key = str(key_node.value)
            if key in values:
                first = self.lines[(*location, key)]
                self.problems.append((line, f"{_dotted((*location, key))} is set a second time, first in line {first}"))
                continue
            self.lines[(*location, key)] = line
            values[key] = self.take(value_node, (*location, key))
        return values


def _read(path: Path) -> _Document:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_BYTES} bytes; that is no configuration")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8 text ({error})") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        # A few aliases can spell a document of astronomic size, and settings need none.
        aliases = [event for event in yaml.parse(text, yaml.SafeLoader) if isinstance(event, yaml.AliasEvent)]
        if aliases:
            raise ConfigError(f"{path.name}: *{aliases[0].anchor} is an alias; write the value out")
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path} is no YAML:\n  {path.name}:{line}: {error.problem or error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    document = _Document()
    if root is None:
        return document
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path} holds no settings; expected lines such as `base_model: nano`")
    document.values = document.take(root, ())
    return document


def _plain(text: str) -> Any:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > _MAX_DIGITS:
        # No setting is so long a number, and Python refuses to read very long ones.
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _causes(error: ValidationError) -> list[ErrorDetails]:
    """Without the lists that are too short because of their wrong items, which are told themselves."""
    found = error.errors()
    inside = {details["loc"][:-1] for details in found}
    return [details for details in found if details["type"] != "too_short" or details["loc"] not in inside]


def _describe(model: type[BaseModel], details: ErrorDetails) -> str:
    name, kind, value = _dotted(details["loc"]), details["type"], details["input"]
    if kind == "extra_forbidden":
        known = _settings_at(model, details["loc"][:-1])
        close = get_close_matches(str(details["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
        return f"{name} is no setting; {hint}"
    return f"{name} is {_shown(value)}; expected {_expectation(details)}"


def _expectation(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind in ("int_type", "float_type") and _is_quoted_number(details["input"], whole=kind == "int_type"):
        return f"{_EXPECTED[kind]} without quotes"
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in _BOUNDS:
        bound = next(iter(context.values()))
        return f"a number {_BOUNDS[kind]} {bound:g}"
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind == "too_short":
        return f"a list of at least {context['min_length']}"
    if kind == "value_error":
        return str(context["error"])
    return details["msg"][:1].lower() + details["msg"][1:]


def _settings_at(model: type[BaseModel], location: Location) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        # Of a section that may be left out, `Section | None`, the section.
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        model = next(kind for kind in kinds if issubclass(kind, BaseModel))
    return list(model.model_fields)


def _is_quoted_number(value: Any, *, whole: bool) -> bool:
    return isinstance(value, str) and isinstance(_plain(value), int if whole else int | float)


def _dotted(location: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _shown(value: Any, limit: int = 60) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = "a section" if isinstance(value, dict) else repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
