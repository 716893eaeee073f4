"""Who is answered: tokens, TLS, and certificates of clients."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from jobs.base.errors import ConfigError
from jobs.main import main
from jobs.serve.grpc_server import pb, pb_grpc
from jobs.serve.job import _bound, _reserved
from jobs.settings.load import load_settings
from tests.builders.servers import serving
from tests.serve.conftest import Served
from tests.serve.test_bad_input import GOOD


def test_only_known_tokens_are_answered(served: Served, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first-secret\nsecond-secret\n")
    options = (served.parents, "serve.token_env=TOKENS", f"serve.token_file={tokens}")
    with serving(
        served.raw.config, tmp_path / "log", *options, environment={"TOKENS": "third-secret"}
    ) as server:
        for path in ("/v2", "/metrics", "/openapi.json", "/v2/models/visits"):
            assert server.ask("GET", path)[0] == 401
            assert server.ask("GET", path, Authorization="Bearer wrong")[0] == 401
            assert server.ask("GET", path, Authorization="Bearer first-secret2")[0] == 401
        assert server.ask("POST", "/invocations", b"{}")[0] == 401
        # Probes of an orchestrator have no token.
        assert server.ask("GET", "/v2/health/live")[0] == 200
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        for token in ("first-secret", "second-secret", "third-secret"):
            server.headers = {"Authorization": f"bearer {token}"}
            assert server.invoke([GOOD])[0]["score"] is not None
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = pb_grpc.GRPCInferenceServiceStub(channel)
            request = pb.ModelMetadataRequest(name="visits")
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelMetadata(request)
            assert refused.value.code().name == "UNAUTHENTICATED"
            known = [("authorization", "Bearer first-secret")]
            assert stub.ModelMetadata(request, metadata=known).name == "visits"
        assert "secret" not in server.said


def certificates(folder: Path) -> None:
    """An authority, a certificate of localhost, and one of a client."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        key = ("-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key")
        openssl("req", *key, "-subj", f"/CN={name}", "-out", f"{name}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", "-days", "2", *signed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("certificates")
    certificates(found)
    return found


def test_only_certificates_of_the_authority_are_answered(
    served: Served, tmp_path: Path, folder: Path
) -> None:
    options = (
        f"serve.tls_cert_file={folder}/server.pem",
        f"serve.tls_key_file={folder}/server.key",
        f"serve.tls_client_ca_file={folder}/ca.pem",
    )
    with serving(served.raw.config, tmp_path / "log", *options) as server:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))

        def status() -> int:
            asked = http.client.HTTPSConnection("localhost", server.port, context=context)
            asked.request("GET", "/v2")
            return asked.getresponse().status

        with pytest.raises((ssl.SSLError, OSError)):
            status()
        context.load_cert_chain(folder / "client.pem", folder / "client.key")
        assert status() == 200
        content = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        for pair, live in (
            ((None, None), False),
            ((content["client.key"], content["client.pem"]), True),
        ):
            credentials = grpc.ssl_channel_credentials(content["ca.pem"], *pair)
            with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
                stub = pb_grpc.GRPCInferenceServiceStub(channel)
                if live:
                    assert stub.ServerLive(pb.ServerLiveRequest(), timeout=30).live
                else:
                    with pytest.raises(grpc.RpcError):
                        stub.ServerLive(pb.ServerLiveRequest(), timeout=5)


@pytest.mark.slow
def test_certificates_that_go_bad_are_named_and_taken_when_they_are_good_again(
    served: Served, tmp_path: Path, folder: Path
) -> None:
    pem = folder / "server.pem"
    options = (f"serve.tls_cert_file={pem}", f"serve.tls_key_file={folder}/server.key")
    with serving(served.raw.config, tmp_path / "log", *options) as server:
        good = pem.read_bytes()
        pem.write_bytes(b"torn")
        try:
            server.replicas()[0].kill()
            server.until("replica 0 cannot serve: serve.tls_cert_file, tls_key_file")
        finally:
            pem.write_bytes(good)
        server.until("replica 0: http", times=2)
        assert "Traceback" not in server.said


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("serve.host=0.0.0.0", "is open to others"),
        ("serve.tls_cert_file=x.pem", "go together"),
        ("serve.grpc_port=8080", "both 8080"),
        ("serve.stall_s=1", "stall_s"),
        ("serve.tls_client_ca_file=x.pem", "needs tls_cert_file"),
        ("serve.most_rows=100000", "queue_rows"),
        ("serve.token_env=NO_SUCH_VARIABLE", "has no token"),
        ("serve.token_file=/none", "cannot be read"),
        ("serve.parents={none: x}", "sources that the declaration joins"),
    ],
)
def test_settings_that_are_not_safe_are_refused(
    served: Served, capsys: pytest.CaptureFixture[str], override: str, why: str
) -> None:
    assert main(["serve", "--config", str(served.raw.config), "--set", override]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("grpc_port", ["null", "0"])
@pytest.mark.parametrize(
    ("key", "why"),
    [("client.key", "mismatch"), ("none.key", "cannot be read"), ("names", "cannot be used")],
)
def test_certificates_and_keys_that_are_no_pair_are_refused(
    served: Served, folder: Path, capsys: Any, key: str, why: str, grpc_port: str
) -> None:
    pair = (f"serve.tls_cert_file={folder}/server.pem", f"serve.tls_key_file={folder}/{key}")
    options = ("serve.port=0", f"serve.grpc_port={grpc_port}", *pair)
    overrides = [part for one in options for part in ("--set", one)]
    assert main(["serve", "--config", str(served.raw.config), *overrides]) == 2
    assert why in capsys.readouterr().err.lower()


def test_a_server_of_ipv6_answers(served: Served, tmp_path: Path) -> None:
    with serving(served.raw.config, tmp_path / "log", "serve.host='::1'") as server:
        assert server.get("/v2/health/ready") == {"ready": True}
        with grpc.insecure_channel(f"[::1]:{server.grpc_port}") as channel:
            stub = pb_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ServerReady(pb.ServerReadyRequest(), timeout=30).ready


def test_a_port_is_taken_before_a_replica_listens() -> None:
    """A server that loads its model has its ports, and its own replicas share them."""
    mine = _reserved("127.0.0.1", 0)
    port = mine.getsockname()[1]
    with pytest.raises(ConfigError, match="cannot be listened on"):
        _reserved("127.0.0.1", port)
    for _ in range(2):
        _bound("127.0.0.1", port, socket.SO_REUSEPORT, socket.SO_REUSEADDR).listen()


def test_a_taken_port_is_named(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = str(served.raw.config)
        assert main(["serve", "--config", config, "--set", f"serve.port={port}"]) == 2
    assert f"127.0.0.1:{port} cannot be listened on" in capsys.readouterr().err


def test_a_setting_is_no_part_of_what_results_follow_from(served: Served) -> None:
    own = load_settings(served.raw.config, ["serve.port=1234"])
    assert own.digest() == served.settings.digest()
