"""Certificates of who signs, of an authority that a policy trusts: Fulcio, or one of one's own (`pki`)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dockyard.content.signatures import strict_json
from dockyard.errors import Forbidden, InvalidParameter, words

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, SubjectAlternativeName
    from cryptography.x509.verification import ExtensionPolicy

# What Fulcio notes about who vouched for the signer: as bare bytes, and as a string of ASN.1.
ISSUER, ISSUER_V2 = "1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.57264.1.8"
# Of those that come with a signature, and of a way from one to a root: among many of one name are many ways to try.
MOST_CERTIFICATES, LONGEST_CHAIN = 6, 4
UTF8_STRING = 0x0C


@dataclass(frozen=True)
class Authority:
    """Whose certificates count, and which of them.

    `roots` and `intermediates` are PEM, or (as str) the path of a file of it. An empty `issuer` is of no Fulcio's.
    """

    roots: bytes | str
    intermediates: bytes | str = b""
    issuer: str = ""
    email: str = ""
    hostname: str = ""


def load(pem: bytes | str) -> list[Certificate]:
    """The certificates of PEM, or of a file. Raises Forbidden when they cannot be used."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(Path(pem).read_bytes() if isinstance(pem, str) else pem)
    except OSError as error:
        raise Forbidden(f"cannot read the certificates {pem!r}: {words(error)}") from None
    except ValueError as error:
        raise Forbidden(f"cannot use the certificates of the policy: {error}") from None


def leaf(text: str) -> Certificate:
    """The one certificate that comes with a signature. Raises InvalidParameter."""
    found = _untrusted(text)
    if len(found) != 1:
        raise InvalidParameter("unexpected multiple certificates present in signature certificate data")
    return found[0]


def _untrusted(text: str) -> list[Certificate]:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        found = load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise InvalidParameter(f"parsing certificates of the signature: {error}") from None
    if len(found) > MOST_CERTIFICATES:
        raise InvalidParameter(f"the signature comes with more than {MOST_CERTIFICATES} certificates")
    return found


def check(certificate: Certificate, chain: str, authority: Authority, when: datetime | None = None) -> None:
    """Return when a certificate was good at a time (None: now) and is of who the policy names.

    `chain`: what comes with the signature to lead to a root; its last one is the root itself, which is not believed.
    Raises InvalidParameter, Forbidden.
    """
    from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

    between = load(authority.intermediates) if authority.intermediates else []
    between += _untrusted(chain)[:-1] if chain else []
    for_authorities, for_leaves = _extension_policies()
    verifier = (
        PolicyBuilder()
        .store(Store(load(authority.roots)))
        .time(when or datetime.now(UTC))
        .max_chain_depth(LONGEST_CHAIN)
        .extension_policies(ca_policy=for_authorities, ee_policy=for_leaves)
        .build_client_verifier()
    )
    try:
        verifier.verify(certificate, between)
    except (VerificationError, ValueError) as error:
        raise InvalidParameter(f"verifying leaf certificate failed: {error}") from None
    if authority.issuer and _issuer(certificate) != authority.issuer:
        raise InvalidParameter(f'Unexpected Fulcio OIDC issuer "{_issuer(certificate)}"')
    _check_subject(certificate, authority)


def _extension_policies() -> tuple[ExtensionPolicy, ExtensionPolicy]:
    """What certificates of authorities and of who signs must say: that they are for that, if they say what for."""
    from cryptography.x509 import BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName
    from cryptography.x509.oid import ExtendedKeyUsageOID
    from cryptography.x509.verification import Criticality, ExtensionPolicy

    def signs_code(policy: Any, certificate: Any, usage: ExtendedKeyUsage | None) -> None:
        allowed = (ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
        if usage is not None and not any(one in usage for one in allowed):
            raise ValueError("certificate specifies an incompatible key usage")

    def is_authority(policy: Any, certificate: Any, constraints: BasicConstraints) -> None:
        if not constraints.ca:
            raise ValueError("not an authority")

    def signs_certificates(policy: Any, certificate: Any, usage: KeyUsage | None) -> None:
        if usage is not None and not usage.key_cert_sign:
            raise ValueError("not allowed to sign certificates")

    anything, always = Criticality.AGNOSTIC, ExtensionPolicy.permit_all()
    leaves = always.may_be_present(ExtendedKeyUsage, anything, signs_code)
    authorities = (
        always.require_present(BasicConstraints, anything, is_authority)
        .may_be_present(KeyUsage, anything, signs_certificates)
        .may_be_present(ExtendedKeyUsage, anything, signs_code)
    )
    return authorities, leaves.may_be_present(SubjectAlternativeName, anything, None)


def _issuer(certificate: Certificate) -> str:
    """Who, as Fulcio notes it, vouched for the signer. Raises InvalidParameter."""
    from cryptography.x509 import UnrecognizedExtension

    found = set()
    for extension in certificate.extensions:
        value = extension.value
        if not isinstance(value, UnrecognizedExtension):
            continue
        if extension.oid.dotted_string == ISSUER:
            found.add(value.value.decode(errors="replace"))
        elif extension.oid.dotted_string == ISSUER_V2:
            if len(value.value) < 2 or value.value[0] != UTF8_STRING or value.value[1] != len(value.value) - 2:
                raise InvalidParameter("invalid ASN.1 in OIDC issuer v2 extension")
            found.add(value.value[2:].decode(errors="replace"))
    if len(found) > 1:
        raise InvalidParameter("inconsistent OIDC issuer extension values")
    if not found:
        raise InvalidParameter("Fulcio certificate is missing the issuer extension")
    return found.pop()


def _check_subject(certificate: Certificate, authority: Authority) -> None:
    from cryptography.x509 import DNSName, ExtensionNotFound, IPAddress, RFC822Name, SubjectAlternativeName

    names: SubjectAlternativeName | Sequence[Any] = []
    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except (ExtensionNotFound, ValueError):
        pass
    if authority.email:
        emails = [name.value for name in names if isinstance(name, RFC822Name)]
        if authority.email not in emails:
            raise InvalidParameter(f'Required email "{authority.email}" not found (got {emails})')
    if authority.hostname:
        hosts = [name.value for name in names if isinstance(name, DNSName)]
        addresses = [name.value for name in names if isinstance(name, IPAddress)]
        if not _is_named(authority.hostname, hosts, addresses):
            raise InvalidParameter(f"Unexpected subject hostname: {hosts + addresses} is not {authority.hostname}")


def _is_named(host: str, names: Sequence[str], addresses: Sequence[Any]) -> bool:
    """Whether one of the names (RFC 6125, 6.4.3) or addresses is `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")) in addresses
    except ValueError:
        pass
    host = host.lower().rstrip(".")
    first, _, rest = host.partition(".")
    return any(name in (host, f"*.{rest}") for name in (name.lower().rstrip(".") for name in names) if first)


def parse(kind: str, value: Any) -> Authority:
    """`fulcio` or `pki` of policy.json. Raises InvalidParameter."""
    if kind == "fulcio":
        strict_json.exact(value, ("oidcIssuer", "subjectEmail"), "fulcio", optional=("caPath", "caData"))
        roots = _pem(value, "caPath", "caData")
        if not roots:
            raise InvalidParameter("At least one of caPath and caData must be specified")
        issuer = strict_json.string(value["oidcIssuer"], "oidcIssuer")
        email = strict_json.string(value["subjectEmail"], "subjectEmail")
        if not issuer or not email:
            raise InvalidParameter("oidcIssuer or subjectEmail not specified")
        return Authority(roots, issuer=issuer, email=email)
    optional = ("caRootsPath", "caRootsData", "caIntermediatesPath", "caIntermediatesData")
    strict_json.exact(value, (), "pki", optional=(*optional, "subjectEmail", "subjectHostname"))
    roots = _pem(value, "caRootsPath", "caRootsData")
    if not roots:
        raise InvalidParameter("At least one of caRootsPath and caRootsData must be specified")
    email = strict_json.string(value.get("subjectEmail", ""), "subjectEmail")
    host = strict_json.string(value.get("subjectHostname", ""), "subjectHostname")
    if not email and not host:
        raise InvalidParameter("At least one of subjectEmail, subjectHostname must be specified")
    return Authority(roots, _pem(value, "caIntermediatesPath", "caIntermediatesData"), email=email, hostname=host)


def _pem(value: dict[str, Any], path: str, data: str) -> bytes | str:
    if path in value and data in value:
        raise InvalidParameter(f"{path} and {data} cannot be used simultaneously")
    if data in value:
        return strict_json.binary(value[data], data)
    return strict_json.string(value.get(path, ""), path)
