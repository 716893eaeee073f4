"""The Open Inference Protocol over HTTP, and MLflow's `/invocations`."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from jobs.serve.access import check_token
from jobs.serve.openapi import openapi
from jobs.serve.request.errors import Failed, RequestError, TooLarge, TooSlow
from jobs.serve.request.invocations import invoked_columns
from jobs.serve.request.tensors import (
    NamedTensor,
    as_bytes,
    as_json,
    checked_shape,
    of_bytes,
    of_json,
)
from jobs.serve.service import Answered, Service
from jobs.settings.serve import ServeSettings

log = logging.getLogger("millstream.serve")

# Bytes of the JSON before binary tensors.
HEADER_LENGTH = "Inference-Header-Content-Length"
_TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_BINARY = "application/octet-stream"
_RETRY_AFTER_S = "1"

Handler = Callable[[Request], Awaitable[Response]]


def rest_app(service: Service, tokens: Sequence[str]) -> Starlette:
    """The application, without a server."""
    rest = _Rest(service, tokens)
    model = "/v2/models/{name}"
    version = f"{model}/versions/{{version}}"
    routes = [
        Route("/v2/health/live", rest.live),
        Route("/v2/health/ready", rest.ready),
        Route("/v2", rest.guarded(rest.server)),
        Route("/metrics", rest.guarded(rest.metrics)),
        Route("/openapi.json", rest.guarded(rest.openapi)),
        Route("/invocations", rest.counted(rest.invocations), methods=["POST"]),
        Route("/ping", rest.ready),
    ]
    for path in (model, version):
        routes += [
            Route(path, rest.guarded(rest.model)),
            Route(f"{path}/ready", rest.model_ready),
            Route(f"{path}/infer", rest.counted(rest.infer), methods=["POST"]),
        ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _of_routing})


class _Rest:
    def __init__(self, service: Service, tokens: Sequence[str]) -> None:
        self._service, self._tokens = service, tokens

    # Around each request

    def guarded(self, handler: Handler) -> Handler:
        """Asks for the token, and says errors in words."""

        async def handle(request: Request) -> Response:
            try:
                check_token(self._tokens, request.headers.get("authorization", ""))
                return await handler(request)
            except RequestError as error:
                return _error(error)

        return handle

    def counted(self, handler: Handler) -> Handler:
        """The same, of a request whose outcome is counted."""

        async def handle(request: Request) -> Response:
            service = self._service
            try:
                with service.accounts.request(service.version):
                    check_token(self._tokens, request.headers.get("authorization", ""))
                    try:
                        return await handler(request)
                    except RequestError:
                        raise
                    except Exception as error:
                        log.exception("a request failed")
                        raise Failed("the request could not be answered") from error
            except RequestError as error:
                return _error(error)

        return handle

    # What is asked

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = self._service.ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def server(self, request: Request) -> Response:
        names = {"name": "millstream", "version": "2", "extensions": ["binary_tensor_data"]}
        return JSONResponse({**names, "models": list(self._service.names)})

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.accounts.page(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(openapi(self._service.names))

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        champion = self._service.champion(name, request.path_params.get("version", ""))
        inputs, outputs = self._service.inputs(name), self._service.output_kinds()
        kinds = [
            [{"name": n, "datatype": kind, "shape": shape} for n, kind, shape in one]
            for one in (inputs, outputs)
        ]
        return JSONResponse(
            {
                "name": name,
                "versions": [champion.version.version],
                "platform": "millstream",
                "inputs": kinds[0],
                "outputs": kinds[1],
                "problem": self._service.live.problem,
            }
        )

    async def model_ready(self, request: Request) -> Response:
        names = request.path_params
        try:
            self._service.champion(names["name"], names.get("version", ""))
        except RequestError as error:
            return _error(error)
        return JSONResponse({"name": names["name"], "ready": True})

    async def infer(self, request: Request) -> Response:
        content = await _body(request, self._service.settings)
        tree, binary = _split(content, request.headers.get(HEADER_LENGTH))
        tensors = _tensors(tree, binary)
        names = request.path_params
        answered = await self._service.infer(
            names["name"], names.get("version", ""), tensors, _timeout_s(request)
        )
        return _response(tree, answered)

    async def invocations(self, request: Request) -> Response:
        content = await _body(request, self._service.settings)
        columns = invoked_columns(_json(content))
        rows = await self._service.invocations(columns, _timeout_s(request))
        return JSONResponse({"predictions": rows})


def _error(error: RequestError) -> Response:
    headers = {"Retry-After": _RETRY_AFTER_S} if error.http in (429, 503) else {}
    if error.http == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, error.http, headers)


async def _of_routing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


# Requests


async def _body(request: Request, settings: ServeSettings) -> bytes:
    """
    Raises:
        TooLarge, TooSlow: more bytes than are taken, or not in time.
    """
    most = settings.most_body_mb << 20
    parts, size = [], 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise TooLarge(f"a request may have {settings.most_body_mb} MiB at most")
                parts.append(part)
    except TimeoutError as error:
        raise TooSlow("the request's body did not come in time") from error
    return b"".join(parts)


def _split(content: bytes, header: str | None) -> tuple[Any, memoryview]:
    """The JSON, and the bytes of binary tensors behind it."""
    if header is None:
        return _json(content), memoryview(b"")
    if not header.isascii() or not header.isdigit() or int(header) > len(content):
        raise RequestError(f"{HEADER_LENGTH} must be the size of the JSON before the tensors")
    size = int(header)
    return _json(content[:size]), memoryview(content)[size:]


def _json(content: bytes) -> Any:
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is no JSON that is taken here") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _timeout_s(request: Request) -> float:
    given = request.headers.get(_TIMEOUT_HEADER)
    if given is None:
        return math.inf
    if not given.isascii() or not given.isdigit() or not int(given):
        raise RequestError(f"{_TIMEOUT_HEADER} must be a number of milliseconds")
    return int(given) / 1000


def _tensors(tree: Any, binary: memoryview) -> list[NamedTensor]:
    if not isinstance(tree, Mapping) or not isinstance(tree.get("inputs"), list):
        raise RequestError("a request needs a list of inputs")
    tensors, place = [], 0
    for one in tree["inputs"]:
        size = _parameters(one).get("binary_data_size")
        if size is None:
            tensors.append(of_json(one))
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not size >= 0:
            raise RequestError("binary_data_size must be a number of bytes")
        if place + size > len(binary):
            raise RequestError("there are fewer bytes than the inputs' binary_data_size say")
        name, datatype = one.get("name"), one.get("datatype")
        shape = checked_shape(name, datatype, one.get("shape"))
        tensors.append(of_bytes(name, datatype, shape, binary[place : place + size]))
        place += size
    if place != len(binary):
        raise RequestError("there are more bytes than the inputs' binary_data_size say")
    return tensors


def _parameters(tree: Any) -> Mapping[str, Any]:
    found = tree.get("parameters") if isinstance(tree, Mapping) else None
    return found if isinstance(found, Mapping) else {}


# Answers


def _response(tree: Any, answered: Answered) -> Response:
    """As JSON, with the outputs behind it that were asked for in binary."""
    asked = tree.get("outputs") if isinstance(tree.get("outputs"), list) else []
    wanted = {one.get("name"): _parameters(one) for one in asked if isinstance(one, Mapping)}
    all_binary = _parameters(tree).get("binary_data_output") is True
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for tensor in answered.outputs:
        if wanted and tensor.name not in wanted:
            continue
        if wanted.get(tensor.name, {}).get("binary_data", all_binary) is True:
            parts.append(as_bytes(tensor))
            kind = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
            outputs.append({**kind, "parameters": {"binary_data_size": len(parts[-1])}})
        else:
            outputs.append(as_json(tensor))
    found: dict[str, Any] = {
        "model_name": answered.model,
        "model_version": answered.version,
        "parameters": answered.parameters,
        "outputs": outputs,
    }
    if isinstance(tree.get("id"), str):
        found["id"] = tree["id"]
    if not parts:
        return JSONResponse(found)
    header = json.dumps(found).encode()
    size = {HEADER_LENGTH: str(len(header))}
    return Response(b"".join([header, *parts]), headers=size, media_type=_BINARY)
