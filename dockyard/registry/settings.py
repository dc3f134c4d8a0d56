"""Every setting of a registry, with its default: the distribution project's, and a few of ours at the end."""

from typing import Any

import msgspec


class Settings(msgspec.Struct, frozen=True):
    """The base of every group of settings."""


class Switch(Settings, frozen=True):
    """Something that is off unless switched on."""

    enabled: bool = False


class AccessLog(Settings, frozen=True):
    """One line for each request."""

    disabled: bool = False


class Log(Settings, frozen=True):
    """What is written to standard output; `formatter` is text, json or logstash."""

    accesslog: AccessLog = AccessLog()
    level: str = "info"
    formatter: str = "text"
    fields: dict[str, str] = {}
    hooks: Any = None
    reportcaller: bool = False


class LetsEncrypt(Settings, frozen=True):
    """Refused: see `check`."""

    cachefile: str = ""
    email: str = ""
    hosts: list[str] = []
    directoryurl: str = ""


class TLS(Settings, frozen=True):
    """Paths of PEM files; `clientcas`: whose certificates clients may show."""

    certificate: str = ""
    key: str = ""
    clientcas: list[str] = []
    clientauth: str = ""
    minimumtls: str = ""
    ciphersuites: list[str] = []
    letsencrypt: LetsEncrypt = LetsEncrypt()


class Prometheus(Settings, frozen=True):
    """Metrics on the debug address."""

    enabled: bool = False
    path: str = "/metrics"


class Debug(Settings, frozen=True):
    """A second address, for those who watch."""

    addr: str = ""
    prometheus: Prometheus = Prometheus()


class HTTP(Settings, frozen=True):
    """How it is reached; `host` is how clients see it, if that is not what they ask for."""

    addr: str = ":5000"
    net: str = "tcp"
    host: str = ""
    prefix: str = ""
    secret: str = ""
    relativeurls: bool = False
    draintimeout: str = "10s"
    tls: TLS = TLS()
    headers: dict[str, list[str]] = {}
    debug: Debug = Debug()
    http2: Any = None
    h2c: Any = None


class FileSystemSettings(Settings, frozen=True):
    """Storage in a folder."""

    rootdirectory: str = "/var/lib/registry"
    maxthreads: int = 100


class S3Settings(Settings, frozen=True):
    """Storage in a bucket."""

    bucket: str = ""
    region: str = ""
    regionendpoint: str = ""
    accesskey: str = ""
    secretkey: str = ""
    sessiontoken: str = ""
    rootdirectory: str = ""
    secure: bool = True
    skipverify: bool = False
    forcepathstyle: bool = True
    chunksize: int = 10 << 20
    encrypt: bool = False
    keyid: str = ""
    storageclass: str = ""
    staging: str = "/var/lib/registry"  # ours: the local folder where uploads are gathered


class Purging(Settings, frozen=True):
    """Uploads that were left unfinished go after `age`."""

    enabled: bool = True
    age: str = "168h"
    interval: str = "24h"
    dryrun: bool = False


class Maintenance(Settings, frozen=True):
    """What is done to the storage, and what is not."""

    uploadpurging: Purging = Purging()
    readonly: Switch = Switch()


class Redirect(Settings, frozen=True):
    """Whether clients are sent to a storage that they can reach themselves."""

    disable: bool = False


class Storage(Settings, frozen=True):
    """Where content is kept."""

    filesystem: FileSystemSettings | None = None
    s3: S3Settings | None = None
    inmemory: Any = None
    delete: Switch = Switch()
    maintenance: Maintenance = Maintenance()
    redirect: Redirect = Redirect()
    cache: Any = None
    tag: Any = None


class Htpasswd(Settings, frozen=True):
    """Users and bcrypt hashes of their passwords in a file."""

    realm: str = "basic-realm"
    path: str = ""


class TokenAuth(Settings, frozen=True):
    """Tokens that another server signs."""

    realm: str = ""
    service: str = ""
    issuer: str = ""
    rootcertbundle: str = ""
    jwks: str = ""
    autoredirect: bool = False
    autoredirectpath: str = "/auth/token"
    signingalgorithms: list[str] = []


class Auth(Settings, frozen=True):
    """Who may do what: at most one of these."""

    htpasswd: Htpasswd | None = None
    token: TokenAuth | None = None


class Ignore(Settings, frozen=True):
    """Events of which an endpoint hears nothing."""

    mediatypes: list[str] = []
    actions: list[str] = []


class Endpoint(Settings, frozen=True):
    """Where events are posted to."""

    name: str = ""
    disabled: bool = False
    url: str = ""
    headers: dict[str, list[str]] = {}
    timeout: str = "1s"
    threshold: int = 10
    backoff: str = "1s"
    ignoredmediatypes: list[str] = []
    ignore: Ignore = Ignore()


class Events(Settings, frozen=True):
    """What events say."""

    includereferences: bool = False


class Notifications(Settings, frozen=True):
    """Who hears of what happens."""

    events: Events = Events()
    endpoints: list[Endpoint] = []


class StorageCheck(Settings, frozen=True):
    """Whether the storage answers."""

    enabled: bool = False
    interval: str = "10s"
    threshold: int = 3


class FileCheck(Settings, frozen=True):
    """Unhealthy while a file exists."""

    file: str = ""
    interval: str = "10s"
    threshold: int = 0


class HTTPCheck(Settings, frozen=True):
    """Unhealthy while a URI does not answer as it should."""

    uri: str = ""
    statuscode: int = 200
    headers: dict[str, list[str]] = {}
    timeout: str = "5s"
    interval: str = "10s"
    threshold: int = 0


class TCPCheck(Settings, frozen=True):
    """Unhealthy while nobody listens there."""

    addr: str = ""
    timeout: str = "5s"
    interval: str = "10s"
    threshold: int = 0


class Health(Settings, frozen=True):
    """What makes it unhealthy."""

    storagedriver: StorageCheck = StorageCheck()
    file: list[FileCheck] = []
    http: list[HTTPCheck] = []
    tcp: list[TCPCheck] = []


class Proxy(Settings, frozen=True):
    """A cache of another registry."""

    remoteurl: str = ""
    username: str = ""
    password: str = ""
    ttl: str = "168h"
    exec: Any = None


class Catalog(Settings, frozen=True):
    """How long a page of the catalog may be."""

    maxentries: int = 1000


class Tags(Settings, frozen=True):
    """How long a page of tags may be; 0: no limit."""

    maxtags: int = 0


class Collection(Settings, frozen=True):
    """Ours: garbage is collected every `interval` while the registry goes on; what is younger than `grace` stays."""

    interval: str = ""
    grace: str = "1h"
    untagged: bool = False


class Quota(Settings, frozen=True):
    """Ours: how much a repository, or a namespace (`team/`), may hold."""

    name: str = ""
    size: str = ""


class Config(Settings, frozen=True):
    """All of it."""

    version: str = "0.1"
    log: Log = Log()
    loglevel: str = ""
    storage: Storage = Storage()
    auth: Auth = Auth()
    http: HTTP = HTTP()
    notifications: Notifications = Notifications()
    health: Health = Health()
    proxy: Proxy = Proxy()
    catalog: Catalog = Catalog()
    tags: Tags = Tags()
    collection: Collection = Collection()
    quotas: list[Quota] = []
    workers: int = 1
    validation: Any = None
    policy: Any = None
    redis: Any = None
    middleware: Any = None
