"""Manifests, tags, catalog and referrers."""

import json

from tests.registry.server import OCI_INDEX, OCI_MANIFEST, Server, digest_of


def test_a_manifest_comes_back_byte_by_byte(registry: Server) -> None:
    digest = registry.push_image("one", "a")
    for reference in ("a", digest):
        answer = registry.ask("GET", f"/v2/one/manifests/{reference}")
        assert (answer.status, digest_of(answer.body)) == (200, digest)
        assert answer.headers["Content-Type"] == OCI_MANIFEST
    assert registry.ask("GET", "/v2/one/manifests/b").code == "MANIFEST_UNKNOWN"
    assert registry.ask("GET", "/v2/none/manifests/b").code == "NAME_UNKNOWN"


def test_a_manifest_needs_its_blobs(registry: Server) -> None:
    lacking = digest_of(b"lacking")
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": lacking, "size": 7}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layer, "layers": [layer]}
    answer = registry.ask("PUT", "/v2/two/manifests/a", json.dumps(manifest).encode(), {"Content-Type": OCI_MANIFEST})
    assert (answer.status, answer.code) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert answer.json["errors"][0]["detail"] == {"digest": lacking}
    assert registry.ask("GET", "/v2/two/tags/list").status == 404


def test_what_is_no_manifest_is_refused(registry: Server) -> None:
    cases = {
        b"": 400,
        b"null": 400,
        b"[]": 400,
        b"{}": 400,
        b'{"schemaVersion": 1, "fsLayers": []}': 400,
        b'{"schemaVersion": 2, "manifests": [], "layers": []}': 400,
        b'{"schemaVersion": 2, "config": {"digest": "sha256:../../x"}, "layers": []}': 400,
        b'{"schemaVersion": 2, "mediaType": "text/plain", "config": {"digest": "x"}, "layers": []}': 400,
        b"[" * 100_000: 400,
        b" " * (9 << 20): 413,
    }
    for body, status in cases.items():
        answer = registry.ask("PUT", "/v2/three/manifests/a", body, {"Content-Type": OCI_MANIFEST})
        assert (answer.status, answer.code) == (status, "MANIFEST_INVALID"), body[:80]
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    assert registry.ask("PUT", "/v2/three/manifests/a", b"{}", {"Content-Type": kind}).code == "MANIFEST_INVALID"


def test_an_image_without_layers_and_an_index_of_blobs_are_taken(registry: Server) -> None:
    blob = registry.push_blob("bare", b"{}")
    link = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob, "size": 2}
    kind = "application/vnd.oci.image.manifest.v1+json"
    document = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": link, "layers": None}).encode()
    assert registry.ask("PUT", "/v2/bare/manifests/none", document, {"Content-Type": kind}).status == 201
    kind = "application/vnd.oci.image.index.v1+json"
    document = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [link]}).encode()
    assert registry.ask("PUT", "/v2/bare/manifests/blobs", document, {"Content-Type": kind}).status == 201
    nowhere = {**link, "digest": "sha256:" + "0" * 64}
    missing = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [nowhere]}).encode()
    assert registry.ask("PUT", "/v2/bare/manifests/x", missing, {"Content-Type": kind}).status == 400


def test_a_deleted_manifest_goes_with_its_tags(registry: Server) -> None:
    digest = registry.push_image("four", "a")
    registry.push_image("four", "b")
    other = registry.push_image("four", "c", layer=b"other")
    assert registry.ask("DELETE", f"/v2/four/manifests/{digest}").status == 202
    assert registry.ask("GET", "/v2/four/tags/list").json["tags"] == ["c"]
    assert registry.ask("DELETE", "/v2/four/manifests/c").status == 202
    assert registry.ask("GET", "/v2/four/tags/list").json["tags"] == []
    assert registry.ask("GET", f"/v2/four/manifests/{other}").status == 200
    assert registry.ask("DELETE", "/v2/four/manifests/c").code == "MANIFEST_UNKNOWN"


def test_tags_and_catalog_come_page_by_page(registry: Server) -> None:
    for tag in ("b", "a", "c"):
        registry.push_image("five/x", tag)
    registry.push_image("five-x")
    first = registry.ask("GET", "/v2/five/x/tags/list?n=2")
    assert first.json == {"name": "five/x", "tags": ["a", "b"]}
    assert first.headers["Link"] == '</v2/five/x/tags/list?n=2&last=b>; rel="next"'
    last = registry.ask("GET", "/v2/five/x/tags/list?n=2&last=b")
    assert (last.json["tags"], "Link" in last.headers) == (["c"], False)
    assert registry.ask("GET", "/v2/five/x/tags/list?n=0").json["tags"] == []
    assert registry.ask("GET", "/v2/five/x/tags/list?n=x").code == "PAGINATION_NUMBER_INVALID"
    page = registry.ask("GET", "/v2/_catalog?n=1&last=five")
    assert page.json == {"repositories": ["five-x"]}
    assert registry.ask("GET", "/v2/_catalog?n=1&last=five-x").json == {"repositories": ["five/x"]}


def test_what_refers_to_a_manifest_is_listed_until_it_is_deleted(registry: Server) -> None:
    subject = digest_of(b"not there yet")
    reference = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 13}
    digest = registry.push_image("six", "sbom", subject=reference, artifactType="text/sbom", annotations={"a": "b"})
    registry.push_image("six", "signature", subject=reference, layer=b"signature", artifactType="text/signature")
    found = registry.ask("GET", f"/v2/six/referrers/{subject}?artifactType=text/sbom")
    assert (found.status, found.headers["Content-Type"]) == (200, OCI_INDEX)
    assert found.headers["OCI-Filters-Applied"] == "artifactType"
    (one,) = found.json["manifests"]
    assert (one["digest"], one["artifactType"], one["annotations"]) == (digest, "text/sbom", {"a": "b"})
    assert len(registry.ask("GET", f"/v2/six/referrers/{subject}").json["manifests"]) == 2
    registry.ask("DELETE", f"/v2/six/manifests/{digest}")
    assert len(registry.ask("GET", f"/v2/six/referrers/{subject}").json["manifests"]) == 1
    assert registry.ask("GET", f"/v2/nothing/referrers/{subject}").json["manifests"] == []
    assert registry.ask("GET", "/v2/six/referrers/sha256:x").code == "DIGEST_INVALID"


def test_names_that_lead_elsewhere_are_refused(registry: Server) -> None:
    for name in ("../x", "a/../b", "a//b", "A", "a/_manifests", "%2e%2e/x", "a%2f..%2fb", "x" * 256, "a\x00b"):
        answer = registry.ask("GET", f"/v2/{name.replace(chr(0), '%00')}/tags/list")
        assert (answer.status, answer.code) == (400, "NAME_INVALID"), name
    assert registry.ask("GET", "/v2/a/blobs/sha256:../../../etc/passwd").status == 404
    assert registry.ask("GET", "/v2/a/blobs/sha256:zz").code == "DIGEST_INVALID"
    assert registry.ask("GET", "/v2/a/manifests/..").code == "TAG_INVALID"
    assert registry.ask("PUT", "/v2/a/manifests/.hidden", b"{}").code == "TAG_INVALID"


def test_what_there_is_none_of_is_said(registry: Server) -> None:
    assert registry.ask("GET", "/v2/").headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert registry.ask("GET", "/v3/").status == 404
    answer = registry.ask("DELETE", "/v2/_catalog")
    assert (answer.status, answer.code, answer.headers["Allow"]) == (405, "UNSUPPORTED", "GET")
