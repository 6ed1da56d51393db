"""What the server accepts: strict models with bounded sizes, and one reading of their errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftrect_ray.errors import InputError, near_match
from ftrect_ray.study import TARGETS, Share, Target

Text = Annotated[str, Field(max_length=1000)]
Number = Annotated[int, Field(ge=-(2**53), le=2**53)] | Annotated[float, Field(allow_inf_nan=False)]
Scalar = bool | Number | Text


class Body(BaseModel):
    """A part of a request: no unknown keys, no NaN, and a string is not a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Condition(Body):
    """One comparison ``column op value`` that a row must fulfil; a row without a value in the column fails it."""

    column: Annotated[str, Field(min_length=1, max_length=200)]
    op: Literal["eq", "ne", "lt", "le", "gt", "ge", "in"]
    value: Scalar | Annotated[list[Scalar], Field(min_length=1, max_length=1000)]


class EstimateRequest(Body):
    """The body of ``POST /v1/studies/{id}/estimate``; what is left out is the study's own setting.

    ``filter``: conditions that all hold; the estimate is then that of the sub-population.
    """

    target: Target | None = None
    alpha: Share | None = None
    filter: Annotated[list[Condition], Field(max_length=20)] = []


class ServeArgs(BaseModel):
    """The ``args`` of a Ray Serve config file.

    ``runs``: folders or URIs of finished runs, readable from every replica.
    ``api_key_file``: the file that holds the API key; without it the key is the variable FTRECT_API_KEY.
    ``allow_without_key``: serve without a key, for hosts that nobody else reaches.
    ``docs``: answer on /docs and /openapi.json.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    runs: Annotated[list[str], Field(min_length=1, max_length=1000)]
    api_key_file: str | None = None
    allow_without_key: bool = False
    docs: bool = False


def parse_request(value: Any) -> EstimateRequest:
    """An :class:`EstimateRequest` from decoded JSON.

    Raises
    ------
    InputError
        All problems in one line, the first five in words.
    """
    try:
        return EstimateRequest.model_validate(value, strict=True)
    except ValidationError as error:
        problems = _one_per_place(error)
    shown = "; ".join(f"{key or 'body'}: {what}" for key, what, _ in problems[:5])
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise InputError(shown + more, where=problems[0][0] or "body", mend=problems[0][2])


def _one_per_place(error: ValidationError) -> list[tuple[str, str, str]]:
    """(dotted key, problem, remedy) of each place; the branches of a union speak of one place and count once."""
    found: dict[str, tuple[str, str, str]] = {}
    for problem in error.errors(include_url=False, include_input=False):
        key = ".".join(
            str(step)[:100] for step in problem["loc"] if step not in _UNION_BRANCHES and "[" not in str(step)
        )
        kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
        remedy = ""
        if kind == "extra_forbidden":
            message, remedy = "unknown key", near_match(key.rsplit(".", 1)[-1], _known_keys(problem["loc"]))
        elif kind == "union_tag_invalid":
            message = f"'kind' must be one of {problem['ctx']['expected_tags']}"
        elif key.endswith(".value") and kind != "missing":
            message = "must be a finite number, a text, true or false, or a list of these"
        found.setdefault(key, (key, message[:1].lower() + message[1:300], remedy))
    return list(found.values())


_UNION_BRANCHES = (
    *TARGETS,
    "bool",
    "int",
    "float",
    "str",
    "constrained-int",
    "constrained-float",
    "constrained-str",
)


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    if location[0] == "filter":
        return list(Condition.model_fields)
    if location[0] == "target" and len(location) > 1:
        return list(TARGETS[str(location[1])].model_fields)
    return list(EstimateRequest.model_fields)
