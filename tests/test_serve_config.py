"""cluster/serve.yaml: Ray's own schema, no key that Ray would silently ignore, and arguments that build accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ftrect_ray.serving.app import LIMITS, REQUEST_TIMEOUT_S, Studies, build
from ftrect_ray.serving.schemas import ServeArgs

CONFIG = Path(__file__).parents[1] / "cluster" / "serve.yaml"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return dict(yaml.safe_load(CONFIG.read_text(encoding="utf-8")))


def unknown_keys(value: Any, schema: dict[str, Any], definitions: dict[str, Any], place: str = "") -> list[str]:
    """Dotted keys of ``value`` that a pydantic JSON schema does not name. Free-form objects are left alone."""
    options = schema.get("anyOf") or schema.get("allOf") or [schema]
    resolved = [definitions[o["$ref"].rsplit("/", 1)[1]] if "$ref" in o else o for o in options]
    if isinstance(value, list):
        items = next((o["items"] for o in resolved if "items" in o), {})
        return [key for i, item in enumerate(value) for key in unknown_keys(item, items, definitions, f"{place}.{i}")]
    known = next((o["properties"] for o in resolved if "properties" in o), None)
    if not isinstance(value, dict) or known is None:
        return []
    found = [f"{place}.{key}" for key in value if key not in known]
    return found + [
        k for key in value if key in known for k in unknown_keys(value[key], known[key], definitions, f"{place}.{key}")
    ]


def test_ray_reads_it_and_ignores_nothing_of_it(config: dict[str, Any]) -> None:
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(config)
    schema = ServeDeploySchema.model_json_schema()
    assert unknown_keys(config, schema, schema["$defs"]) == []
    typo = {
        **config,
        "http_options": {"hots": "0.0.0.0"},
        "applications": [{**config["applications"][0], "deployments": [{"name": "x", "num_replica": 2}]}],
    }
    assert unknown_keys(typo, schema, schema["$defs"]) == [
        ".http_options.hots",
        ".applications.0.deployments.0.num_replica",
    ]


def test_it_listens_on_this_machine_alone_and_names_real_things(config: dict[str, Any]) -> None:
    application = config["applications"][0]
    assert config["http_options"]["host"] == "127.0.0.1"
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    assert application["route_prefix"].startswith("/")
    assert [deployment["name"] for deployment in application["deployments"]] == [Studies.__name__]
    assert ServeArgs.model_validate(application["args"]).allow_without_key is False


def test_its_limits_are_those_of_the_code(config: dict[str, Any]) -> None:
    deployment = config["applications"][0]["deployments"][0]
    assert {key: deployment[key] for key in LIMITS} == LIMITS
    assert config["http_options"]["request_timeout_s"] == REQUEST_TIMEOUT_S
    assert deployment["max_queued_requests"] > 0  # Ray's default is no limit


def test_build_makes_the_deployment_that_the_config_names(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTRECT_API_KEY", "correct-horse-battery-staple")
    application = build(ServeArgs.model_validate(config["applications"][0]["args"]))
    deployment = application._bound_deployment
    assert deployment.name == Studies.__name__
    assert deployment.max_queued_requests == LIMITS["max_queued_requests"]
    assert "correct-horse" not in repr(deployment.init_kwargs)
