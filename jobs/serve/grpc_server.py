"""The Open Inference Protocol over gRPC, with health and reflection."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from jobs.serve.access import address, check_token, grpc_credentials, tokens_of
from jobs.serve.request.errors import Failed, RequestError
from jobs.serve.request.tensors import (
    BYTES,
    NamedTensor,
    as_bytes,
    checked_shape,
    of_bytes,
    of_numbers,
)
from jobs.serve.service import Answered, Service
from jobs.settings.settings import Settings

log = logging.getLogger("millstream.serve")


def _made_from_proto() -> tuple[Any, Any]:
    """Messages and service, made from the .proto. It is looked for below `sys.path`, which an
    editable install leaves as it is."""
    root = str(Path(__file__).parents[2])
    sys.path.append(root)
    try:
        found: tuple[Any, Any] = grpc.protos_and_services("jobs/serve/inference.proto")
        return found
    finally:
        sys.path.remove(root)


pb, pb_grpc = _made_from_proto()

SERVICE = "inference.GRPCInferenceService"
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


class _Inference:
    """The protocol's calls, by their names in it."""

    def __init__(self, service: Service, tokens: Sequence[str]) -> None:
        self._service, self._tokens = service, tokens

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=self._service.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            self._service.check_ready(request.name, request.version)
        except RequestError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerMetadataResponse(
            name="millstream", version="2", extensions=["binary_tensor_data"]
        )

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            self._check_caller(context)
            champion = self._service.champion(request.name, request.version)
            kinds = self._service.inputs(request.name), self._service.output_kinds()
        except RequestError as error:
            await _abort(context, error)
        make = pb.ModelMetadataResponse.TensorMetadata
        inputs, outputs = (
            [make(name=name, datatype=kind, shape=shape) for name, kind, shape in one]
            for one in kinds
        )
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[champion.version.version],
            platform="millstream",
            inputs=inputs,
            outputs=outputs,
        )

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        service = self._service
        try:
            with service.accounts.request(service.version):
                self._check_caller(context)
                if request is None:
                    raise RequestError("the request is no message of the protocol")
                try:
                    return await self._answer(request, context.time_remaining())
                except RequestError:
                    raise
                except Exception as error:
                    log.exception("a request failed")
                    raise Failed("the request could not be answered") from error
        except RequestError as error:
            await _abort(context, error)

    async def _answer(self, request: Any, left_s: float | None) -> Any:
        answered = await self._service.infer(
            request.model_name,
            request.model_version,
            _tensors(request),
            math.inf if left_s is None else left_s,
        )
        return _response(request, answered)

    def handler(self) -> Any:
        """The calls for a server. A message that cannot be read is refused here, as gRPC's own
        answer would be that of a server which failed."""
        service = pb.DESCRIPTOR.services_by_name[SERVICE.rpartition(".")[2]]
        handlers = {m.name: self._handler(m.name, m.input_type.name) for m in service.methods}
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _handler(self, name: str, message: str) -> Any:
        answer, kind = getattr(self, name), getattr(pb, message)

        async def call(content: bytes, context: Any) -> Any:
            try:
                request = kind.FromString(content)
            except DecodeError as error:
                if name != "ModelInfer":
                    await _abort(context, RequestError(str(error)))
                request = None
            return await answer(request, context)

        return grpc.unary_unary_rpc_method_handler(
            call, response_serializer=lambda found: found.SerializeToString()
        )

    def _check_caller(self, context: Any) -> None:
        headers = dict(context.invocation_metadata())
        check_token(self._tokens, str(headers.get("authorization", "")))


async def _abort(context: Any, error: RequestError) -> None:
    await context.abort(grpc.StatusCode[error.grpc], str(error))


def _tensors(request: Any) -> list[NamedTensor]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError("raw_input_contents must have one entry an input")
    tensors = []
    for place, one in enumerate(request.inputs):
        shape = checked_shape(one.name, one.datatype, list(one.shape))
        if raw:
            tensors.append(of_bytes(one.name, one.datatype, shape, memoryview(raw[place])))
        else:
            tensors.append(_of_contents(one, shape))
    return tensors


def _of_contents(one: Any, shape: tuple[int, ...]) -> NamedTensor:
    field = _CONTENTS.get(one.datatype)
    if field is None:
        raise RequestError(f"input {one.name!r}: give {one.datatype} in raw_input_contents")
    values = list(getattr(one.contents, field))
    if len(values) != math.prod(shape):
        raise RequestError(f"input {one.name!r} has {len(values)} values, its shape {list(shape)}")
    if one.datatype == BYTES:
        return NamedTensor(one.name, BYTES, shape, values)
    return of_numbers(one.name, one.datatype, shape, values)


def _response(request: Any, answered: Answered) -> Any:
    """With raw contents where the request had them."""
    outputs = answered.asked({one.name for one in request.outputs})
    found = pb.ModelInferResponse(
        model_name=answered.model, model_version=answered.version, id=request.id
    )
    for name, value in answered.parameters.items():
        found.parameters[name].string_param = value
    for one in outputs:
        made = found.outputs.add(name=one.name, datatype=one.datatype, shape=list(one.shape))
        if request.raw_input_contents:
            found.raw_output_contents.append(as_bytes(one))
        elif isinstance(one.data, np.ndarray):
            getattr(made.contents, _CONTENTS[one.datatype]).extend(one.data.reshape(-1).tolist())
        else:
            made.contents.bytes_contents.extend(text.encode() for text in one.data)
    return found


class GrpcServer:
    """The server, and the port that it has."""

    def __init__(self, settings: Settings, service: Service) -> None:
        serve = settings.serve
        size = serve.most_body_mb << 20
        self.server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", size),
                ("grpc.max_metadata_size", 16 << 10),
                ("grpc.max_concurrent_streams", serve.most_connections),
            ],
            maximum_concurrent_rpcs=serve.most_connections,
        )
        calls = _Inference(service, tokens_of(settings))
        self.server.add_generic_rpc_handlers((calls.handler(),))
        self.health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        reflection.enable_server_reflection(
            (SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME), self.server
        )
        listening = address(serve.host, serve.grpc_port or 0)
        credentials = grpc_credentials(settings)
        if credentials is None:
            self.port = self.server.add_insecure_port(listening)
        else:
            self.port = self.server.add_secure_port(listening, credentials)

    async def say(self, ready: bool) -> None:
        """Tells health checks."""
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVING if ready else kinds.NOT_SERVING
        for name in ("", SERVICE):
            await self.health.set(name, status)
