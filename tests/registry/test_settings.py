"""config.yml and REGISTRY_* variables."""

import pytest

from dockyard.errors import InvalidParameter
from dockyard.registry.config import check, load, seconds

# as in the image registry:2
FILE = """\
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"""


def test_variables_count_before_the_file() -> None:
    config = load(
        FILE,
        {
            "REGISTRY_HTTP_ADDR": "0.0.0.0:443",
            "REGISTRY_HTTP_TLS_CERTIFICATE": "/certs/domain.crt",
            "REGISTRY_HTTP_TLS_KEY": "/certs/domain.key",
            "REGISTRY_HTTP_TLS_CLIENTCAS_0": "/certs/ca.crt",
            "REGISTRY_HTTP_SECRET": "1234",
            "REGISTRY_AUTH": "htpasswd",
            "REGISTRY_AUTH_HTPASSWD_REALM": "Registry Realm",
            "REGISTRY_AUTH_HTPASSWD_PATH": "/auth/htpasswd",
            "REGISTRY_STORAGE_DELETE_ENABLED": "true",
            "REGISTRY_STORAGE_MAINTENANCE_READONLY": "{enabled: true}",
            "REGISTRY_NOTIFICATIONS_ENDPOINTS": "- name: one\n  url: http://l/\n  headers: {Authorization: [x]}\n",
        },
    )
    assert config.http.addr == "0.0.0.0:443"
    assert (config.http.tls.certificate, config.http.tls.clientcas) == ("/certs/domain.crt", ["/certs/ca.crt"])
    assert config.http.secret == "1234"
    assert config.http.headers == {"X-Content-Type-Options": ["nosniff"]}
    assert config.auth.htpasswd is not None
    assert (config.auth.htpasswd.realm, config.auth.htpasswd.path) == ("Registry Realm", "/auth/htpasswd")
    assert config.storage.filesystem is not None
    assert config.storage.filesystem.rootdirectory == "/var/lib/registry"
    assert config.storage.delete.enabled
    assert config.storage.maintenance.readonly.enabled
    (endpoint,) = config.notifications.endpoints
    assert (endpoint.name, endpoint.headers) == ("one", {"Authorization": ["x"]})


def test_another_storage_takes_the_place_of_the_files() -> None:
    config = load(FILE, {"REGISTRY_STORAGE_S3_BUCKET": "images", "REGISTRY_STORAGE_S3_REGION": "eu"})
    assert config.storage.filesystem is None
    assert config.storage.s3 is not None
    assert (config.storage.s3.bucket, config.storage.s3.region) == ("images", "eu")


@pytest.mark.parametrize(
    ("text", "environment", "why"),
    [
        ("x", {}, "it is not a mapping"),
        ("version: 0.2", {}, "unsupported version"),
        ("version: 0.1\nhttp: [", {}, "configuration:"),
        ("version: 0.1\nstorage: azure", {}, "storage 'azure' is not here"),
        ("", {"REGISTRY_AUTH": "silly"}, "auth 'silly' is not here"),
        ("", {"REGISTRY_STORAGE_DELETE_ENABLED": "perhaps"}, "bool"),
        ("", {"REGISTRY_HTTP_TLS_CLIENTCAS_2": "x"}, "undefined index"),
        ("", {"REGISTRY_HTTP_TLS_KEY": "/key"}, "both a certificate and a key"),
        ("", {"REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL": "x@y"}, "letsencrypt is not here"),
    ],
)
def test_what_cannot_be_done_is_refused(text: str, environment: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        check(load(text, environment))


def test_what_is_not_heeded_is_named(caplog: pytest.LogCaptureFixture) -> None:
    load("version: 0.1\nhttp: {adr: x}\nredis: {addr: y}\n", {"REGISTRY_FOO": "1"})
    said = " ".join(caplog.messages)
    assert "setting http.adr" in said
    assert "setting foo" in said
    assert "ignoring redis" in said


def test_durations_are_gos() -> None:
    assert [seconds(text) for text in ("1h30m", "1.5s", "250ms", "1000000000")] == [5400, 1.5, 0.25, 1]
    for text in ("", "s", "1 s", "1d"):
        with pytest.raises(InvalidParameter):
            seconds(text)
