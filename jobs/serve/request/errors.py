"""Why a request has no answer, in words for whoever asked."""

from __future__ import annotations


class RequestError(Exception):
    """A request that is not answered.

    Attributes:
        outcome: what it counts as: refused, shed or failed.
        http, grpc: the status, and the name of gRPC's.
    """

    outcome, http, grpc = "refused", 400, "INVALID_ARGUMENT"


class Unauthorized(RequestError):
    """It has no token that is known here."""

    http, grpc = 401, "UNAUTHENTICATED"


class Unknown(RequestError):
    """It names a model or a version that is not live."""

    http, grpc = 404, "NOT_FOUND"


class TooLarge(RequestError):
    """It has more bytes or rows than are taken."""

    http = 413


class Shed(RequestError):
    """As many rows wait as may."""

    outcome, http, grpc = "shed", 429, "RESOURCE_EXHAUSTED"


class Late(RequestError):
    """There was no answer before its deadline."""

    outcome, http, grpc = "shed", 504, "DEADLINE_EXCEEDED"


class NotReady(RequestError):
    """No champion is live here, too many connections are open, or the replica is about to end."""

    outcome, http, grpc = "shed", 503, "UNAVAILABLE"


class Failed(RequestError):
    """Something here went wrong; the log says what."""

    outcome, http, grpc = "failed", 500, "INTERNAL"
