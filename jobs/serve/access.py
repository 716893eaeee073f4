"""Where is listened, and who is answered: addresses, bearer tokens and certificates."""

from __future__ import annotations

import hmac
import os
import ssl
from collections.abc import Sequence
from pathlib import Path

import grpc

from jobs.base.errors import ConfigError
from jobs.serve.request.errors import Unauthorized
from jobs.settings.settings import Settings

_SCHEME = "bearer "


def tokens_of(settings: Settings) -> tuple[str, ...]:
    """The tokens that are known; none where every caller is answered.

    Raises:
        ConfigError: the variable or the file is not there, or names none.
    """
    serve = settings.serve
    found: list[str] = []
    if serve.token_env is not None:
        found += os.environ.get(serve.token_env, "").split()
        if not found:
            raise ConfigError(
                f"the environment variable {serve.token_env} has no token",
                remedy="set it, or leave serve.token_env out",
            )
    if serve.token_file is not None:
        lines = _content(settings, serve.token_file).decode().split()
        if not lines:
            raise ConfigError(f"{serve.token_file} has no token", "one a line")
        found += lines
    return tuple(found)


def check_token(tokens: Sequence[str], authorization: str) -> None:
    """
    Raises:
        Unauthorized: the header has none of the tokens. Comparing takes as long for each.
    """
    if not tokens:
        return
    given = authorization[len(_SCHEME) :] if authorization.lower().startswith(_SCHEME) else ""
    known = [hmac.compare_digest(given.encode(), token.encode()) for token in tokens]
    if not any(known):
        raise Unauthorized("a bearer token that is known here is needed")


def address(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """TLS for HTTP; None where it is not asked for.

    Raises:
        ConfigError: a file cannot be read, is no certificate or key, or they are no pair.
    """
    serve = settings.serve
    if serve.tls_cert_file is None or serve.tls_key_file is None:
        return None
    for path in filter(None, (serve.tls_cert_file, serve.tls_key_file, serve.tls_client_ca_file)):
        _content(settings, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key that asks for a password is refused, not asked about at the terminal.
        pair = settings.path(serve.tls_cert_file), settings.path(serve.tls_key_file)
        context.load_cert_chain(*pair, password="")
        if serve.tls_client_ca_file is not None:
            context.load_verify_locations(settings.path(serve.tls_client_ca_file))
            context.verify_mode = ssl.CERT_REQUIRED
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(
            f"serve.tls_cert_file, tls_key_file or tls_client_ca_file cannot be used: {error}",
            "PEM files: a certificate chain, its own private key without a password, authorities",
        ) from error
    return context


def grpc_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS for gRPC; None where it is not asked for.

    Raises:
        ConfigError: a file cannot be read.
    """
    serve = settings.serve
    if serve.tls_cert_file is None or serve.tls_key_file is None:
        return None
    pair = (_content(settings, serve.tls_key_file), _content(settings, serve.tls_cert_file))
    ca = serve.tls_client_ca_file
    root = _content(settings, ca) if ca is not None else None
    return grpc.ssl_server_credentials([pair], root, require_client_auth=root is not None)


def _content(settings: Settings, path: str) -> bytes:
    try:
        return Path(settings.path(path)).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
