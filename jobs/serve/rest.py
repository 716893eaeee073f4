"""The Open Inference Protocol over HTTP, and MLflow's `/invocations`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from jobs.serve.access import check_token
from jobs.serve.http import DirectPath, WholeRequest
from jobs.serve.openapi import openapi
from jobs.serve.request.body import (
    HEADER_LENGTH,
    HEADER_TIMEOUT,
    id_of,
    parameters_of,
    parsed,
    parsed_to_64_bits,
    split,
    tensors_of,
    timeout_s,
)
from jobs.serve.request.errors import Failed, NotReady, RequestError, TooLarge
from jobs.serve.request.invocations import invoked_columns
from jobs.serve.request.tensors import as_bytes, as_json
from jobs.serve.service import Answered, Service
from jobs.settings.serve import ServeSettings

log = logging.getLogger("millstream.serve")

# As headers are looked up.
_LENGTH, _TIMEOUT = HEADER_LENGTH.lower(), HEADER_TIMEOUT.lower()
_JSON, _BINARY = "application/json", "application/octet-stream"
_RETRY_AFTER_S = "1"

Asked = Request | WholeRequest
Handler = Callable[[Asked], Awaitable[Response]]


def direct_paths(service: Service, tokens: Sequence[str]) -> dict[bytes, DirectPath]:
    """What is asked most often, answered without the application."""
    rest = _Rest(service, tokens)
    infer = rest.counted(rest.infer)
    found = {
        f"/v2/models/{name}/infer": DirectPath(infer, {"name": name}) for name in service.names
    }
    found["/invocations"] = DirectPath(rest.counted(rest.invocations), {})
    return {path.encode(): direct for path, direct in found.items()}


def rest_app(service: Service, tokens: Sequence[str], busy: bool = False) -> Router:
    """The application, without a server; what is asked most often comes first.

    Args:
        busy: whether it sheds what has to be computed, and answers the rest.
    """
    rest = _Rest(service, tokens)
    model = "/v2/models/{name}"
    version = f"{model}/versions/{{version}}"
    paths = (version, model)
    infer, invocations = (rest.busy, rest.busy) if busy else (rest.infer, rest.invocations)
    return Router(
        [
            *(Route(f"{path}/infer", _Endpoint(rest.counted(infer), "POST")) for path in paths),
            Route("/invocations", _Endpoint(rest.counted(invocations), "POST")),
            Route("/v2/health/live", _Endpoint(rest.live)),
            Route("/v2/health/ready", _Endpoint(rest.ready)),
            # What MLflow's servers have.
            Route("/ping", _Endpoint(rest.ready)),
            Route("/health", _Endpoint(rest.ready)),
            Route("/version", _Endpoint(rest.version)),
            *(Route(f"{path}/ready", _Endpoint(rest.model_ready)) for path in paths),
            *(Route(path, _Endpoint(rest.guarded(rest.model))) for path in paths),
            Route("/v2", _Endpoint(rest.guarded(rest.server))),
            Route("/metrics", _Endpoint(rest.guarded(rest.metrics))),
            Route("/openapi.json", _Endpoint(rest.guarded(rest.openapi))),
        ],
        default=_Endpoint(_no_path, ""),
    )


class _Endpoint:
    """The ASGI application of a path.

    The layers that Starlette has around functions cost a fifth of a small request, and do nothing
    that is needed here.

    Args:
        method: the one that is answered; any where it is empty.
    """

    def __init__(self, handler: Handler, method: str = "GET") -> None:
        self._handler = handler
        self._methods = {"GET", "HEAD"} if method == "GET" else {method} - {""}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._methods and scope["method"] not in self._methods:
            allowed = {"Allow": ", ".join(sorted(self._methods))}
            response: Response = JSONResponse({"error": "Method Not Allowed"}, 405, allowed)
        else:
            response = await self._handler(Request(scope, receive))
        await response(scope, receive, send)


async def _no_path(request: Asked) -> Response:
    return JSONResponse({"error": "Not Found"}, 404)


class _Rest:
    def __init__(self, service: Service, tokens: Sequence[str]) -> None:
        self._service, self._tokens = service, tokens

    # Around each request

    def guarded(self, handler: Handler) -> Handler:
        """Asks for the token, and says errors in words."""

        async def handle(request: Asked) -> Response:
            try:
                check_token(self._tokens, request.headers.get("authorization", ""))
                return await handler(request)
            except RequestError as error:
                return _error(error)

        return handle

    def counted(self, handler: Handler) -> Handler:
        """The same, of a request whose outcome is counted."""

        async def handle(request: Asked) -> Response:
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
            except asyncio.CancelledError:
                # Its time is over with that of the drain.
                return _error(NotReady("this server ends"))

        return handle

    # What is asked

    async def live(self, request: Asked) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Asked) -> Response:
        ready = self._service.ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def server(self, request: Asked) -> Response:
        names = {"name": "millstream", "version": "2", "extensions": ["binary_tensor_data"]}
        return JSONResponse({**names, "models": list(self._service.names)})

    async def version(self, request: Asked) -> Response:
        return PlainTextResponse("2")

    async def metrics(self, request: Asked) -> Response:
        return Response(self._service.accounts.page(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Asked) -> Response:
        service = self._service
        known = service.inputs(service.names[0]) if service.ready else []
        columns = [name for name, _, _ in known]
        return JSONResponse(openapi(service.names, service.version, columns))

    async def model(self, request: Asked) -> Response:
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

    async def model_ready(self, request: Asked) -> Response:
        names = request.path_params
        try:
            self._service.check_ready(names["name"], names.get("version", ""))
        except RequestError as error:
            return _error(error)
        return JSONResponse({"name": names["name"], "ready": True})

    async def busy(self, request: Asked) -> Response:
        # Who is not listened to would not hear the answer.
        await _body(request, self._service.settings)
        raise NotReady("too many connections are open here")

    async def infer(self, request: Asked) -> Response:
        content = await _body(request, self._service.settings)
        names = request.path_params
        # Of raw rows texts are made, which must have each digit that was written.
        read = parsed if names["name"] == self._service.names[0] else parsed_to_64_bits
        tree, binary = split(content, request.headers.get(_LENGTH), read)
        tensors = tensors_of(tree, binary)
        wait_s, version = timeout_s(request.headers.get(_TIMEOUT)), names.get("version", "")
        answered = await self._service.infer(names["name"], version, tensors, wait_s)
        return _response(tree, answered)

    async def invocations(self, request: Asked) -> Response:
        content = await _body(request, self._service.settings)
        # MLflow's client writes what pandas has, NaN for what is missing.
        columns = invoked_columns(parsed(content, float), self._service.check_columns)
        rows = await self._service.invocations(columns, timeout_s(request.headers.get(_TIMEOUT)))
        return JSONResponse({"predictions": rows})


def _error(error: RequestError) -> Response:
    headers = {"Retry-After": _RETRY_AFTER_S} if error.http in (429, 503) else {}
    if error.http == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, error.http, headers)


# Requests


async def _body(request: Asked, settings: ServeSettings) -> bytes:
    """
    Raises:
        TooLarge: more bytes than are taken.
        RequestError: the connection was closed, by the client or as it was too slow.
    """
    if isinstance(request, WholeRequest):
        # It is shorter than the least bound that can be set.
        return request.content
    parts, size, more = [], 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise RequestError("the connection was closed within the body")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > settings.most_body_mb << 20:
            raise TooLarge(f"a request may have {settings.most_body_mb} MiB at most")
        more = message.get("more_body", False)
    return b"".join(parts)


# Answers


def _response(tree: Any, answered: Answered) -> Response:
    """As JSON, with the outputs behind it that were asked for in binary."""
    asked = tree.get("outputs") if isinstance(tree.get("outputs"), list) else []
    names = [one.get("name") if isinstance(one, Mapping) else None for one in asked]
    chosen = answered.asked(names)
    wanted = dict(zip(names, map(parameters_of, asked), strict=True))
    all_binary = parameters_of(tree).get("binary_data_output") is True
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for tensor in chosen:
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
    if (identity := id_of(tree)) is not None:
        found["id"] = identity
    header = orjson.dumps(found)
    if not parts:
        return Response(header, media_type=_JSON)
    size = {HEADER_LENGTH: str(len(header))}
    return Response(b"".join([header, *parts]), headers=size, media_type=_BINARY)
