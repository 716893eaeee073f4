"""The HTTP interface as an OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.serve.request.tensors import BYTES, DATATYPES

_JSON, _TEXT = "application/json", "text/plain"

_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 256},
        "datatype": {"enum": [BYTES, *DATATYPES]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        "data": {"type": "array", "items": {}},
        "parameters": {"type": "object"},
    },
}
_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_INFERRED = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "parameters": {"type": "object"},
        "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
    },
}
_INVOKED = {
    "type": "object",
    "required": ["predictions"],
    "properties": {"predictions": {"type": "array", "items": {"type": "object"}}},
}
# A value of a raw column: text as a file has it, a number, or none.
_VALUE = {"type": ["string", "number", "boolean", "null"]}
_ERRORS = {
    "400": "the request is not as it must be",
    "401": "no bearer token that is known here",
    "404": "no such model, or that version is not live",
    "408": "the request did not come in time",
    "413": "too many bytes or rows",
    "429": "too many rows wait",
    "503": "no model is live here now, or too many connections are open",
    "504": "no answer before the deadline",
}


def openapi(models: Sequence[str], live: str, columns: Sequence[str]) -> dict[str, Any]:
    """The document.

    Args:
        models: names that paths may have.
        live: the version that they may have; empty where none is live.
        columns: raw columns that each row has.
    """
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": list(models)},
    }
    version = {**name, "name": "version", "schema": {"type": "string", "enum": [live]}}
    alive, ready = _operation("The process answers."), _operation("A model is live.")
    paths: dict[str, Any] = {
        "/v2/health/live": {"get": alive},
        **{path: {"get": ready} for path in ("/v2/health/ready", "/ping", "/health")},
        "/v2": {"get": _operation("What this server is.")},
        "/version": {"get": _operation("Of the protocol.", kind=_TEXT)},
        "/metrics": {"get": _operation("Counts and times, as Prometheus reads them.", kind=_TEXT)},
        "/invocations": {
            "post": {
                **_operation("Scores of raw rows, as MLflow's clients ask.", _INVOKED),
                "requestBody": {"required": True, **_content(_invocation(columns))},
            }
        },
    }
    for path, parameters in (
        ("/v2/models/{name}", [name]),
        ("/v2/models/{name}/versions/{version}", [name, version]),
    ):
        paths[path] = {"parameters": parameters, "get": _operation("Inputs and outputs.")}
        paths[f"{path}/ready"] = {"parameters": parameters, "get": _operation("It is live.")}
        infer = _operation("Scores of rows.", _INFERRED)
        infer["requestBody"] = {"required": True, **_content(_inference(columns))}
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


def _invocation(columns: Sequence[str]) -> dict[str, Any]:
    """Rows in one of MLflow's three forms. Columns of the label may be there too."""
    names = {"type": "array", "items": {"enum": list(columns)}, "uniqueItems": True}
    rows = {"type": "array", "items": _VALUE, "minItems": len(columns), "maxItems": len(columns)}
    forms = {
        "dataframe_records": {"type": "array", "items": _by_column(columns, _VALUE), "minItems": 1},
        "dataframe_split": {
            "type": "object",
            "required": ["columns", "data"],
            "properties": {
                "columns": {**names, "minItems": len(columns)},
                "data": {"type": "array", "items": rows, "minItems": 1},
            },
        },
        "inputs": _by_column(columns, {"type": "array", "items": _VALUE, "minItems": 1}),
    }
    return {
        "oneOf": [
            {"type": "object", "required": [name], "properties": {name: form}}
            for name, form in forms.items()
        ],
        "example": {"dataframe_records": [dict.fromkeys(columns, "1")]},
    }


def _by_column(columns: Sequence[str], schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(columns),
        "properties": dict.fromkeys(columns, schema),
        "additionalProperties": False,
    }


def _inference(columns: Sequence[str]) -> dict[str, Any]:
    """Tensors; the example has those of a raw row."""
    row = [{"name": name, "datatype": BYTES, "shape": [1], "data": ["1"]} for name in columns]
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {"type": "array", "items": {"type": "object"}},
            "parameters": {"type": "object"},
        },
        "example": {"inputs": row},
    }


def _operation(
    text: str, answer: dict[str, Any] | None = None, kind: str = _JSON
) -> dict[str, Any]:
    return {
        "summary": text,
        "responses": {
            "200": {"description": "done", **_content(answer or {}, kind)},
            **{code: {"description": why, **_content(_ERROR)} for code, why in _ERRORS.items()},
        },
    }


def _content(schema: dict[str, Any], kind: str = _JSON) -> dict[str, Any]:
    return {"content": {kind: {"schema": schema}}}
