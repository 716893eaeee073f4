"""The HTTP interface as an OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "array", "items": {}},
        "parameters": {"type": "object"},
    },
}
_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        "outputs": {"type": "array", "items": {"type": "object"}},
        "parameters": {"type": "object"},
    },
}
_INFERRED = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "parameters": {"type": "object"},
        "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
    },
}
_INVOKED = {
    "type": "object",
    "description": "One of the three.",
    "properties": {
        "dataframe_split": {"type": "object"},
        "dataframe_records": {"type": "array", "items": {"type": "object"}},
        "inputs": {"type": "object"},
    },
}
_ERRORS = {
    "400": "the request is not as it must be",
    "401": "no bearer token that is known here",
    "404": "no such model, or that version is not live",
    "408": "the body did not come in time",
    "413": "too many bytes or rows",
    "429": "too many rows wait",
    "503": "no model is live here now",
    "504": "no answer before the deadline",
}


def openapi(models: Sequence[str]) -> dict[str, Any]:
    """The document.

    Args:
        models: names that paths may have.
    """
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": list(models)},
    }
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    paths: dict[str, Any] = {
        "/v2/health/live": {"get": _operation("The process answers.")},
        "/v2/health/ready": {"get": _operation("A model is live.")},
        "/v2": {"get": _operation("What this server is.")},
        "/metrics": {"get": _operation("Counts and times, as Prometheus reads them.")},
        "/invocations": {"post": _operation("Scores, as MLflow's clients ask.", _INVOKED, {})},
    }
    for path, parameters in (
        ("/v2/models/{name}", [name]),
        ("/v2/models/{name}/versions/{version}", [name, version]),
    ):
        paths[path] = {"parameters": parameters, "get": _operation("Inputs and outputs.")}
        paths[f"{path}/ready"] = {"parameters": parameters, "get": _operation("It is live.")}
        infer = _operation("Scores of rows.", _INFER, _INFERRED)
        paths[f"{path}/infer"] = {"parameters": parameters, "post": infer}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Millstream", "version": "2"},
        "paths": paths,
        "components": {
            "schemas": {"Tensor": _TENSOR},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}, {}],
    }


def _operation(
    text: str, body: dict[str, Any] | None = None, answer: dict[str, Any] | None = None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": text,
        "responses": {
            "200": {"description": "done", **_content(answer or {})},
            **{code: {"description": why, **_content(_ERROR)} for code, why in _ERRORS.items()},
        },
    }
    if body is not None:
        found["requestBody"] = {"required": True, **_content(body)}
    return found


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
