"""Tokens that an authorization server signs (distribution: "Token Authentication Specification", "…Implementation").

The server's key is one of a certificate in `rootcertbundle` (or is certified by one: `x5c`), or of the set `jwks`.
"""

import base64
import hashlib
import logging
from datetime import UTC, datetime
from typing import Any

import jwt
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dockyard.errors import InvalidParameter
from dockyard.registry import settings
from dockyard.registry.auth.model import Actor
from dockyard.registry.errors import Refused
from dockyard.registry.routes import Access
from dockyard.web import Request

log = logging.getLogger("dockyard.registry")

# Never HS*: the secret would be what everybody may know here, the public key. Never none.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LEEWAY = 60.0  # seconds by which clocks may differ
LONGEST_CHAIN = 8


class _Resource(msgspec.Struct):
    type: str = ""
    name: str = ""
    actions: list[str] = []


class _Claims(msgspec.Struct):
    sub: str = ""
    access: list[_Resource] | None = None


class Tokens:
    """Checks tokens."""

    open = False

    def __init__(self, options: settings.TokenAuth) -> None:
        """Raises InvalidParameter."""
        for name in ("service", "issuer", *(() if options.autoredirect else ("realm",))):
            if not getattr(options, name):
                raise InvalidParameter(f"auth.token.{name} is missing")
        unknown = set(options.signingalgorithms) - set(ALGORITHMS)
        if unknown:
            raise InvalidParameter(f"auth.token.signingalgorithms: {', '.join(sorted(unknown))}: not supported")
        self._options = options
        self._algorithms = options.signingalgorithms or list(ALGORITHMS)
        self._roots: list[x509.Certificate] = []
        self._keys: dict[str, Any] = {}
        try:
            if options.rootcertbundle:
                with open(options.rootcertbundle, "rb") as file:
                    self._roots = x509.load_pem_x509_certificates(file.read())
            if options.jwks:
                with open(options.jwks, "rb") as file:
                    keys = jwt.PyJWKSet.from_dict(msgspec.json.decode(file.read()))
                self._keys = {key.key_id: key.key for key in keys.keys if key.key_id and key.key_type != "oct"}
        except (OSError, ValueError, jwt.PyJWTError, msgspec.DecodeError) as error:
            raise InvalidParameter(f"auth.token: cannot use the signing keys: {error}") from None
        for root in self._roots:
            for name in _names(root):
                self._keys[name] = root.public_key()
        if not self._keys:
            raise InvalidParameter("auth.token needs at least one signing key: rootcertbundle or jwks")

    async def authorize(self, request: Request, wanted: list[Access]) -> Actor:
        """Who asks. Raises Refused."""
        scheme, _, token = request.headers.get("Authorization").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise self._refusal(request, wanted)
        try:
            claims = self._verified(token.strip())
        except (jwt.PyJWTError, ValueError, msgspec.ValidationError) as error:
            log.info("token refused: %s", error)
            raise self._refusal(request, wanted, "invalid_token") from None
        allowed = {(one.type, one.name, action) for one in claims.access or [] for action in one.actions}
        for one in wanted:
            if not {(one.type, one.name, one.action), (one.type, one.name, "*")} & allowed:
                raise self._refusal(request, wanted, "insufficient_scope")
        return Actor(claims.sub)

    def _verified(self, token: str) -> _Claims:
        """What the token says. Raises PyJWTError, ValueError, ValidationError."""
        options = self._options
        claims = jwt.decode(
            token,
            self._key(jwt.get_unverified_header(token)),
            algorithms=self._algorithms,
            audience=options.service,
            issuer=options.issuer,
            leeway=LEEWAY,
            options={"require": ["exp", "iss", "aud"], "verify_iat": False},
        )
        return msgspec.convert(claims, _Claims)

    def _key(self, header: dict[str, Any]) -> Any:
        """The key that has to have signed. Raises ValueError unless it is trusted."""
        chain = header.get("x5c")
        own = header.get("jwk")
        if not chain and isinstance(own, dict):
            chain = own.get("x5c")
        if chain:
            return self._certified(chain)
        name = header.get("kid") or (own.get("kid") if isinstance(own, dict) else None)
        if name in self._keys:
            return self._keys[name]
        raise ValueError(f"signed by a key that is not trusted: {name!r}")

    def _certified(self, chain: Any) -> Any:
        """The first certificate's key. Raises ValueError unless the chain ends at a root."""
        if not isinstance(chain, list) or len(chain) > LONGEST_CHAIN:
            raise ValueError("x5c is no chain of certificates")
        found = [x509.load_der_x509_certificate(base64.b64decode(one)) for one in chain]
        now = datetime.now(UTC)
        for position, certificate in enumerate(found):
            if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                raise ValueError("a certificate of x5c is not valid now")
            if position and not _may_certify(certificate):
                raise ValueError("a certificate of x5c may certify no other")
            if certificate in self._roots or any(_issued(certificate, root) for root in self._roots):
                return found[0].public_key()
            if position + 1 == len(found) or not _issued(certificate, found[position + 1]):
                break
        raise ValueError("x5c leads to no trusted certificate")

    def _refusal(self, request: Request, wanted: list[Access], error: str = "") -> Refused:
        options = self._options
        realm = options.realm
        if options.autoredirect:
            scheme = request.headers.get("X-Forwarded-Proto") or "https"
            realm = f"{scheme}://{request.headers.get('Host')}{options.autoredirectpath}"
        challenge = f'Bearer realm="{realm}",service="{options.service}"'
        scopes: dict[str, list[str]] = {}
        for one in wanted:
            scopes.setdefault(f"{one.type}:{one.name}", []).append(one.action)
        if scopes:
            scope = " ".join(f"{name}:{','.join(actions)}" for name, actions in scopes.items())
            challenge += f',scope="{scope}"'
        if error:
            challenge += f',error="{error}"'
        detail = [{"Type": one.type, "Class": "", "Name": one.name, "Action": one.action} for one in wanted]
        return Refused("UNAUTHORIZED", detail or None, headers={"WWW-Authenticate": challenge})


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _may_certify(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _names(certificate: x509.Certificate) -> list[str]:
    """What a token may call the certificate's key: libtrust's fingerprint (2.x), RFC 7638's thumbprint (3.x)."""
    key = certificate.public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    letters = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    names = [":".join(letters[start : start + 4] for start in range(0, len(letters), 4))]
    for algorithm in ("RS256", "ES256", "EdDSA"):
        try:
            members = jwt.get_algorithm_by_name(algorithm).to_jwk(key, as_dict=True)
        except (jwt.PyJWTError, TypeError, AttributeError):
            continue
        needed = {name: members[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in members}
        hashed = hashlib.sha256(msgspec.json.encode(dict(sorted(needed.items())))).digest()
        names.append(base64.urlsafe_b64encode(hashed).rstrip(b"=").decode())
        break
    return names
