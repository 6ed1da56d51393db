"""The study file: YAML in, a checked :class:`~ftrect_ray.study.Study` out, every error of it at once.

Nothing outside this module knows YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ftrect_ray.errors import InputError, InputErrors, near_match
from ftrect_ray.study import TARGETS, Candidate, Study

MAX_STUDY_BYTES = 1 << 20


class _StudyLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and aliases, and reads ``1e-5`` as the number that it is."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not allowed", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                )
            if isinstance(key_node.value, str):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_StudyLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StudyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def parse_yaml(text: str, *, where: str) -> Any:
    """One YAML document as plain Python values; tags, aliases and duplicate keys are refused.

    Raises
    ------
    InputError
        Naming line and column.
    """
    try:
        return yaml.load(text, Loader=_StudyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        problem = error.problem or "not valid YAML"
        if "could not determine a constructor" in problem:
            raise InputError(
                f"YAML tags are not allowed: {problem.split()[-1]}", where=place, mend="write plain values"
            ) from None
        raise InputError(
            f"cannot read YAML: {problem}", where=place, mend="mend the line, then run 'ftrect validate'"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot read YAML: {str(error).splitlines()[0]}", where=where, mend="save the file as UTF-8 text"
        ) from None


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file and apply ``key.sub=value`` overrides (values are YAML).

    Raises
    ------
    InputErrors
        All problems at once, each with its dotted key.
    """
    where = str(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_STUDY_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cannot read the study file: {error.strerror}",
            where=where,
            mend="'ftrect init STUDY.yaml' writes one to start from",
        ) from None
    if len(raw) > MAX_STUDY_BYTES:
        raise InputError(
            f"the study file is larger than {MAX_STUDY_BYTES} bytes",
            where=where,
            mend="a study file holds settings, not data",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the study file is not UTF-8 text (byte {error.start})", where=where, mend="save it as UTF-8"
        ) from None
    return parse_study(text, overrides, where=where)


def parse_study(text: str, overrides: Sequence[str] = (), *, where: str = "study") -> Study:
    """:func:`load_study` for text that is already in memory."""
    document = parse_yaml(text, where=where)
    if not isinstance(document, dict):
        kind = "empty" if document is None else f"a {type(document).__name__}"
        raise InputError(
            f"a study file is a mapping of settings; this one is {kind}",
            where=where,
            mend="'ftrect init STUDY.yaml' writes one to start from",
        )
    for override in overrides:
        _apply(document, override)
    try:
        return Study.model_validate(document)
    except ValidationError as error:
        raise InputErrors([_input_error(problem, where) for problem in error.errors()]) from None


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise InputError(f"--set takes key.sub=value; got {override!r}", mend="for example --set training.epochs=4")
    node = document
    for name in path[:-1]:
        child = node.get(name)
        if not isinstance(child, dict):
            child = node[name] = {}
        node = child
    node[path[-1]] = parse_yaml(value, where=f"--set {key}")


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """The keys that the part of the study at ``location`` knows."""
    part: Any = Study
    if tuple(location[:1]) == ("candidates",):
        part, location = Candidate, location[2:]  # behind a name of the user's own
    for step in location:
        if step in TARGETS:
            part = TARGETS[str(step)]
            continue
        field = getattr(part, "model_fields", {}).get(str(step))
        if field is None:
            return []
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        part = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return list(getattr(part, "model_fields", {}))


def _input_error(problem: Any, where: str) -> InputError:
    location = list(problem["loc"])
    if location[:1] == ["target"]:
        del location[1:2]  # the union's tag is not a key of the file
    location = [step for step in location if not (isinstance(step, str) and ("[" in step or step in ("int", "float")))]
    key = ".".join(str(step) for step in location)
    kind, value = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        return InputError(
            f"unknown key {key!r}", where=where, mend=near_match(location[-1], _fields_at(problem["loc"][:-1]))
        )
    if kind == "missing":
        return InputError(f"{key!r} is missing", where=where, mend=f"add '{location[-1]}: …'")
    if kind == "union_tag_invalid":
        return InputError(
            f"'{key}.kind' must be one of {problem['ctx']['expected_tags']}; got {problem['ctx']['tag']!r}", where=where
        )
    shown = "" if isinstance(value, dict) else f"; got {value!r}"
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        shown = "" if isinstance(value, (dict, list)) else shown
        return InputError(
            f"{key!r}: {message}{shown}" if key else message,
            where=where,
            mend="see 'ftrect init' for the commented settings",
        )
    return InputError(f"{key!r}: {_lower(message)}{shown}", where=where, mend=_remedy(kind))


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _remedy(kind: str) -> str:
    return {
        "greater_than": "the interval is open: the bound itself is not allowed",
        "less_than": "the interval is open: the bound itself is not allowed",
        "string_pattern_mismatch": "letters, digits, '.', '_' and '-', 128 at most, first a letter or digit",
    }.get(kind, "see 'ftrect init' for the commented settings")


def default_study_text(sections: Mapping[str, Any] | None = None) -> str:
    """The commented study file that ``ftrect init`` writes and ``make demo`` runs, with other ``sections`` if any."""
    text = (Path(__file__).parent / "default_study.yaml").read_text(encoding="utf-8")
    for name, settings in (sections or {}).items():
        block = dump_sections({name: settings})
        text, found = re.subn(rf"^{name}:.*\n(?: .*\n)*", block, text, flags=re.MULTILINE)
        text += "" if found else f"\n{block}"
    return text


def dump_sections(sections: Mapping[str, Any]) -> str:
    """Parts of a study as YAML, in the given order."""
    return yaml.safe_dump(dict(sections), sort_keys=False, allow_unicode=True)


def dump_study(study: Study) -> str:
    """The whole study, defaults included, as YAML that :func:`parse_study` reads back."""
    unused = {"model"} if study.candidates else {"candidates"}
    return yaml.safe_dump(study.model_dump(mode="json", exclude=unused), sort_keys=False, allow_unicode=True)
