"""Who may come in: passwords, tokens, TLS with and without certificates of clients, nothing but reading."""

import base64
import datetime
import hmac
import http.client
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dockyard.registry.auth.htpasswd import digest_of_password
from tests.registry.server import Server, digest_of


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_who_has_no_password_does_not_come_in(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    file.write_text(f"me:{digest_of_password('secret')}\nold:$apr1$x$y\n")
    server = Server(
        tmp_path,
        environment={
            "REGISTRY_AUTH": "htpasswd",
            "REGISTRY_AUTH_HTPASSWD_REALM": "Registry Realm",
            "REGISTRY_AUTH_HTPASSWD_PATH": str(file),
        },
    ).start()
    try:
        for headers in (
            {},
            basic("me", "wrong"),
            basic("you", "secret"),
            basic("old", "y"),
            {"Authorization": "Basic x"},
        ):
            answer = server.ask("GET", "/v2/", headers=headers)
            assert (answer.status, answer.code) == (401, "UNAUTHORIZED"), headers
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="Registry Realm"'
        assert server.ask("GET", "/v2/", headers=basic("me", "secret")).status == 200
        begun = server.ask("POST", "/v2/a/blobs/uploads/", b"")
        assert (begun.status, begun.json["errors"][0]["detail"][1]["Action"]) == (401, "push")
        assert server.ask("POST", "/v2/a/blobs/uploads/", b"", basic("me", "secret")).status == 202
        took = []
        for password in ("wrong", "secret"):
            began = time.monotonic()
            for _ in range(10):
                server.ask("GET", "/v2/", headers=basic("me", password))
            took.append(time.monotonic() - began)
        assert took[1] < took[0] / 2, "a password that was right is hashed again each time"
        file.write_text(f"you:{digest_of_password('other')}\n")
        assert server.ask("GET", "/v2/", headers=basic("me", "secret")).status == 401
        assert server.ask("GET", "/v2/", headers=basic("you", "other")).status == 200
    finally:
        server.stop()


class Issuer:
    """Signs tokens as an authorization server does."""

    def __init__(self, folder: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = certificate(self.key, "issuer")
        self.bundle = folder / "bundle.pem"
        self.bundle.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def token(self, *access: dict[str, Any], key: Any = None, header: Any = None, **claims: Any) -> dict[str, str]:
        now = int(time.time())
        values = {
            "iss": "issuer",
            "aud": "registry",
            "sub": "me",
            "exp": now + 60,
            "nbf": now,
            "access": access,
            **claims,
        }
        x5c = [base64.b64encode(self.certificate.public_bytes(serialization.Encoding.DER)).decode()]
        signed = jwt.encode(values, key or self.key, "ES256", {"x5c": x5c} if header is None else header)
        return {"Authorization": f"Bearer {signed}"}


def certificate(key: ec.EllipticCurvePrivateKey, name: str) -> x509.Certificate:
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(named).issuer_name(named).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(hours=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return builder.sign(key, hashes.SHA256())


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def guarded(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(
        tmp_path_factory.mktemp("guarded"),
        environment={
            "REGISTRY_AUTH_TOKEN_REALM": "https://auth.example/token",
            "REGISTRY_AUTH_TOKEN_SERVICE": "registry",
            "REGISTRY_AUTH_TOKEN_ISSUER": "issuer",
            "REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE": str(issuer.bundle),
        },
    ).start()
    yield server
    server.stop()


def test_a_token_opens_what_it_names(guarded: Server, issuer: Issuer) -> None:
    asked = guarded.ask("POST", "/v2/a/b/blobs/uploads/", b"")
    assert (asked.status, asked.headers["WWW-Authenticate"]) == (
        401,
        'Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push"',
    )
    assert guarded.ask("GET", "/v2/").headers["WWW-Authenticate"].endswith('service="registry"')
    allowed = {"type": "repository", "name": "a/b", "actions": ["pull", "push"]}
    assert guarded.ask("GET", "/v2/", headers=issuer.token()).status == 200
    assert guarded.ask("POST", "/v2/a/b/blobs/uploads/", b"", issuer.token(allowed)).status == 202
    for path, method in (
        ("/v2/a/c/blobs/uploads/", "POST"),
        ("/v2/_catalog", "GET"),
        ("/v2/a/b/manifests/x", "DELETE"),
    ):
        answer = guarded.ask(method, path, b"", issuer.token(allowed))
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].endswith(',error="insufficient_scope"')
    mount = f"/v2/a/b/blobs/uploads/?mount=sha256:{'0' * 64}&from=a/other"
    assert guarded.ask("POST", mount, b"", issuer.token(allowed)).status == 401
    everything = {"type": "registry", "name": "catalog", "actions": ["*"]}
    assert guarded.ask("GET", "/v2/_catalog", headers=issuer.token(everything)).status == 200


def signed_with_the_public_key(public: bytes) -> str:
    """PyJWT refuses to make one."""
    said = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg":"HS256"}', b'{"iss":"issuer"}')]
    signature = base64.urlsafe_b64encode(hmac.digest(public, b".".join(said), "sha256")).rstrip(b"=")
    return b".".join([*said, signature]).decode()


def test_a_token_that_is_not_the_servers_opens_nothing(guarded: Server, issuer: Issuer) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    theirs = base64.b64encode(certificate(other, "issuer").public_bytes(serialization.Encoding.DER)).decode()
    ours = base64.b64encode(issuer.certificate.public_bytes(serialization.Encoding.DER)).decode()
    public = issuer.certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    cases = {
        "old": issuer.token(exp=int(time.time()) - 3600),
        "not yet": issuer.token(nbf=int(time.time()) + 3600),
        "another's": issuer.token(iss="somebody"),
        "for another": issuer.token(aud="other"),
        "another's key": issuer.token(key=other),
        "another's certificate": issuer.token(key=other, header={"x5c": [theirs]}),
        "another's certificate, then ours": issuer.token(key=other, header={"x5c": [theirs, ours]}),
        "a key of nobody": issuer.token(key=other, header={"kid": "x"}),
        "no key": issuer.token(header={}),
        "none": {"Authorization": "Bearer " + jwt.encode({"iss": "issuer", "aud": "registry"}, None, "none")},
        "the public key as a secret": {"Authorization": "Bearer " + signed_with_the_public_key(public)},
        "no token": {"Authorization": "Bearer x.y.z"},
        "no JSON": {"Authorization": "Bearer " + base64.urlsafe_b64encode(b"{").decode() + ".e30.x"},
    }
    for name, headers in cases.items():
        answer = guarded.ask("GET", "/v2/", headers=headers)
        assert (answer.status, answer.headers["WWW-Authenticate"][-22:]) == (401, ',error="invalid_token"'), name


def test_a_key_set_signs_as_well(issuer: Issuer, tmp_path: Path) -> None:
    key = jwt.get_algorithm_by_name("ES256").to_jwk(issuer.key.public_key(), as_dict=True)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [{**key, "kid": "one", "alg": "ES256"}]}))
    settings = [f"auth.token.{name}" for name in ("realm=r", "service=registry", "issuer=issuer")]
    server = Server(tmp_path, *settings, f"auth.token.jwks={tmp_path}/jwks.json").start()
    try:
        assert server.ask("GET", "/v2/", headers=issuer.token(header={"kid": "one"})).status == 200
        assert server.ask("GET", "/v2/", headers=issuer.token(header={"kid": "two"})).status == 401
    finally:
        server.stop()


def test_tls_with_certificates_of_clients(issuer: Issuer, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(
        issuer.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    server = Server(
        tmp_path,
        environment={
            "REGISTRY_HTTP_TLS_CERTIFICATE": str(issuer.bundle),
            "REGISTRY_HTTP_TLS_KEY": str(key),
            "REGISTRY_HTTP_TLS_CLIENTCAS_0": str(issuer.bundle),
        },
    ).start()
    blob = b"x" * 3_000_000

    def ask(connection: http.client.HTTPSConnection) -> None:
        connection.request("GET", "/v2/")  # in TLS 1.3 a client may say this before it is refused
        connection.getresponse()

    def connect(*, shown: bool) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(issuer.bundle))
        if shown:
            context.load_cert_chain(issuer.bundle, key)
        return http.client.HTTPSConnection("localhost", server.port, context=context, timeout=10)

    try:
        stranger = connect(shown=False)
        with pytest.raises(OSError, match=r"certificate required|reset|closed|EOF"):
            ask(stranger)
        friend = connect(shown=True)
        friend.request("POST", f"/v2/a/blobs/uploads/?digest={digest_of(blob)}", blob)
        answer = friend.getresponse()
        assert (answer.status, answer.read()) == (201, b"")
        friend.request("GET", f"/v2/a/blobs/{digest_of(blob)}")
        assert friend.getresponse().read() == blob
        friend.close()
    finally:
        server.stop()


def test_a_registry_that_is_only_read_takes_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path, "storage.maintenance.readonly.enabled=true").start()
    try:
        for method, path in (
            ("POST", "/v2/a/blobs/uploads/"),
            ("PUT", "/v2/a/manifests/x"),
            ("DELETE", "/v2/a/manifests/x"),
        ):
            answer = server.ask(method, path, b"")
            assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    finally:
        server.stop()
