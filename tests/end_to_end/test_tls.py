"""The API over TCP with TLS, as the stock client uses it."""

import datetime
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import dockyard
from tests.engine_process import EngineProcess


def write_certificates(folder: Path) -> None:
    """ca.pem, and {server,client}{,-key}.pem signed by it."""
    folder.mkdir()
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    now = datetime.datetime.now(datetime.UTC)

    def sign(name: x509.Name, key: ec.EllipticCurvePrivateKey, is_authority: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(authority_key, hashes.SHA256())
        )

    (folder / "ca.pem").write_bytes(sign(authority, authority_key, True).public_bytes(serialization.Encoding.PEM))
    for who in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)])
        (folder / f"{who}.pem").write_bytes(sign(name, key, False).public_bytes(serialization.Encoding.PEM))
        (folder / f"{who}-key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


class TlsEngine:
    """An engine that listens on TCP with TLS, and the stock client that talks to it there."""

    def __init__(self, folder: Path) -> None:
        self.certificates = folder / "certificates"
        write_certificates(self.certificates)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.host = f"tcp://localhost:{port}"
        self.process = EngineProcess(
            folder / "engine",
            number=7,
            arguments=(
                f"--host=tcp://127.0.0.1:{port}",
                "--tlsverify",
                f"--tlscacert={self.certificates}/ca.pem",
                f"--tlscert={self.certificates}/server.pem",
                f"--tlskey={self.certificates}/server-key.pem",
            ),
        )

    @property
    def files(self) -> dockyard.TLS:
        """What a client needs."""
        return dockyard.TLS(*(f"{self.certificates}/{name}.pem" for name in ("ca", "client", "client-key")))

    def docker(self, *arguments: str, input: bytes = b"", certificate: str = "client") -> "subprocess.CompletedProcess":
        flags = ["--tlsverify", f"--tlscacert={self.certificates}/ca.pem"]
        if certificate:
            flags += [
                f"--tlscert={self.certificates}/{certificate}.pem",
                f"--tlskey={self.certificates}/{certificate}-key.pem",
            ]
        return subprocess.run(
            ["docker", "-H", self.host, *flags, *arguments],
            input=input,
            capture_output=True,
            timeout=60,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(self.process.folder)},
        )


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsEngine]:
    engine = TlsEngine(tmp_path_factory.mktemp("tls"))
    engine.process.start()
    engine.docker("run", "--rm", "busybox", "true")  # takes the image
    try:
        yield engine
    finally:
        engine.process.clean_up()


def test_output_arrives_though_the_client_sends_no_more(tls: TlsEngine) -> None:
    # the client says farewell in TLS at once when it has no input to send
    done = tls.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)


def test_the_end_of_input_ends_cat_and_all_comes_back(tls: TlsEngine) -> None:
    sent = os.urandom(3 << 20)
    done = tls.docker("run", "--rm", "-i", "busybox", "cat", input=sent)
    assert done.returncode == 0, done.stderr
    assert done.stdout == sent


def test_much_output_is_whole(tls: TlsEngine) -> None:
    done = tls.docker("run", "--rm", "busybox", "head", "-c", "20000000", "/dev/zero")
    assert done.stdout == bytes(20_000_000)


def test_a_client_without_a_certificate_of_the_authority_is_refused(tls: TlsEngine) -> None:
    done = tls.docker("ps", certificate="")
    assert done.returncode != 0
    assert b"certificate" in done.stderr


def test_who_never_greets_or_talks_no_tls_hinders_nobody(tls: TlsEngine) -> None:
    port = int(tls.host.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as rude:
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert tls.docker("ps").returncode == 0
        rude.settimeout(5)
        while rude.recv(4096):
            pass  # an alert, then the end


def test_the_sdk_blocking(tls: TlsEngine) -> None:
    sent = os.urandom(3 << 20)
    with dockyard.Client(tls.host, tls=tls.files) as client:
        assert client.execute("busybox", "cat", input=sent) == (0, sent, b"")
        with client.run("busybox", "sleep 100") as container:
            assert container.exec("cat", input=b"in") == (0, b"in", b"")
            with container.start_exec("cat", stdin=True) as process:
                process.write(b"one")
                assert next(process) == ("stdout", b"one")
                process.close_stdin()
                assert process.wait() == 0
    with pytest.raises(dockyard.Unreachable, match="certificate"):
        dockyard.Client(tls.host, tls=dockyard.TLS()).ping()


async def test_the_sdk_with_asyncio(tls: TlsEngine) -> None:
    sent = os.urandom(3 << 20)
    async with dockyard.AsyncClient(tls.host, tls=tls.files) as client:
        assert await client.execute("busybox", "cat", input=sent) == (0, sent, b"")
        async with client.run("busybox", "sleep 100") as container:
            assert await container.exec("cat", input=b"in") == (0, b"in", b"")
    with pytest.raises(dockyard.Unreachable, match="certificate"):
        await dockyard.AsyncClient(tls.host, tls=dockyard.TLS()).ping()
