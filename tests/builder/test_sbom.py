"""Packages that executables, Java archives and gems tell of, made here byte by byte."""

import io
import json
import struct
import zipfile
import zlib

import pytest

from dockyard.builder.attestations.sbom.document import spdx_document
from dockyard.builder.attestations.sbom.scan import packages_in
from dockyard.builder.trees import ArchiveTree

MARK = b"0123456789abcdef"  # what Go puts around its list
BASE = 0x400000


def executable(content: bytes, *, section: str = ".data") -> bytes:
    """An ELF file of 64 bits with one section, which is loaded at BASE; its content is at offset 128."""
    names = b"\0" + section.encode() + b"\0.shstrtab\0"
    head, offset = 64 + 56, 128
    after = offset + len(content)
    sections = after + len(names)
    elf = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE, 64, sections, 0, 64, 56, 1, 64, 3, 2)
    elf += struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, sections, sections, 4096)
    elf = elf.ljust(head, b"\0").ljust(offset, b"\0") + content + names
    elf += bytes(64)
    elf += struct.pack("<IIQQQQIIQQ", 1, 1, 2, BASE + offset, offset, len(content), 0, 0, 16, 0)
    elf += struct.pack("<IIQQQQIIQQ", len(section) + 2, 3, 0, 0, after, len(names), 0, 0, 1, 0)
    return elf + bytes(2048)


def counted(text: bytes) -> bytes:
    length, found = len(text), b""
    while length >= 0x80:
        found += bytes([length & 0x7F | 0x80])
        length >>= 7
    return found + bytes([length]) + text


def go_list(text: str) -> bytes:
    return MARK + text.encode() + MARK


NEW = (
    "path\texample.com/app/cmd\nmod\texample.com/app\t(devel)\t\n"
    "dep\tgithub.com/a/b/v2\tv2.1.0\th1:x=\ndep\tgopkg.in/c\tv1.0.0\n=>\tgithub.com/d/c\tv1.0.1\th1:y=\n"
    "dep\texample.com/local\tv0.0.0\n=>\t./local\t\t\n"
    "build\tvcs.revision=0123456789abcdef0123\nbuild\tvcs.time=2024-05-06T07:08:09Z\n"
)


def purls(**files: bytes) -> list[str]:
    tree = ArchiveTree()
    for name, content in files.items():
        tree.add(name.replace("_", "/"), content, 0o755)
    return [package.purl for package in packages_in(tree)]


def test_go_programs_tell_of_their_modules() -> None:
    head = b"\xff Go buildinf:" + bytes([8, 2])
    data = head.ljust(32, b"\0") + counted(b"go1.22.1") + counted(go_list(NEW))
    # the mark alone, as programs have it that look for such information, is none
    decoy = (b"\xff Go buildinf:" + bytes([8, 2])).ljust(32, b"\0") + b"\xff" * 16
    assert purls(bin_app=executable(decoy + data)) == [
        "pkg:golang/example.com/app@v0.0.0-20240506070809-0123456789ab",
        "pkg:golang/github.com/d/c@v1.0.1",
        "pkg:golang/example.com/local@v0.0.0",
        "pkg:golang/stdlib@1.22.1",
        "pkg:golang/github.com/a/b/v2@v2.1.0",
    ]


def test_go_programs_from_before_1_18_have_it_behind_pointers() -> None:
    texts = [b"go1.16.3", go_list("path\tcmd\nmod\texample.com/old\tv1.2.3\th1:x=\n")]
    # the head with two pointers, the headers they lead to, and the texts those lead to
    place = BASE + 128
    headers, body = b"", b""
    for text in texts:
        headers += struct.pack("<QQ", place + 32 + 32 + len(body), len(text))
        body += text
    head = b"\xff Go buildinf:" + bytes([8, 0]) + struct.pack("<QQ", place + 32, place + 48)
    assert purls(bin_old=executable(head + headers + body)) == [
        "pkg:golang/example.com/old@v1.2.3",
        "pkg:golang/stdlib@1.16.3",
    ]


@pytest.mark.parametrize("cut", range(0, 420, 7))
def test_a_program_that_is_cut_or_lies_is_none(cut: int) -> None:
    head = (b"\xff Go buildinf:" + bytes([8, 2])).ljust(32, b"\0")
    data = head + counted(b"go1.22.1") + counted(go_list("mod\texample.com/a\tv1\t\n"))
    whole = executable(data)
    assert set(purls(bin_cut=whole[:cut].ljust(4096, b"\xff"))) <= set(purls(bin_whole=whole))


def test_rust_programs_tell_of_their_crates() -> None:
    crates = [
        {"name": "app", "version": "0.1.0", "source": "local", "root": True},
        {"name": "serde", "version": "1.0.200", "source": "crates.io"},
        {"name": "cc", "version": "1.0.9", "source": "crates.io", "kind": "build"},
    ]
    packed = zlib.compress(json.dumps({"packages": crates}).encode())
    assert purls(bin_rust=executable(packed, section=".dep-v0")) == ["pkg:cargo/app@0.1.0", "pkg:cargo/serde@1.0.200"]
    bomb = zlib.compress(bytes(64 << 20))
    assert purls(bin_bomb=executable(bomb, section=".dep-v0")) == []


def jar(**members: bytes | str) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return whole.getvalue()


def test_java_archives_tell_of_themselves_and_of_what_is_in_them() -> None:
    manifest = "Manifest-Version: 1.0\r\nBundle-SymbolicName: org.in\r\n ner.lib;singleton:=true\r\n"
    inner = jar(**{"META-INF/MANIFEST.MF": manifest + "Implementation-Version: 9\r\n\r\nName: x/\r\nA: b\r\n"})
    pom = "#Created\ngroupId=com.acme\nartifactId = {}\nversion: 1.0\n"
    members: dict[str, bytes | str] = {
        "META-INF/MANIFEST.MF": "Manifest-Version: 1.0\n",
        "META-INF/maven/com.acme/app/pom.properties": pom.format("app"),
        "META-INF/maven/com.acme/shaded/pom.properties": pom.format("shaded"),
        "BOOT-INF/lib/inner-lib-2.3.jar": inner,
        "BOOT-INF/lib/other.jar": inner,
        "BOOT-INF/lib/bomb-1.0.jar": bytes(80 << 20),
    }
    whole = jar(**members)
    tree = ArchiveTree()
    tree.add("opt/app.jar", whole)
    tree.add("opt/plain-3.jar", jar(readme="no manifest"))
    tree.add("opt/broken-1.jar", whole[:-40])
    assert [(one.purl, one.source) for one in packages_in(tree)] == [
        ("pkg:maven/com.acme/app@1.0", "opt/app.jar"),
        ("pkg:maven/org.inner.lib/inner-lib@2.3", "opt/app.jar:BOOT-INF/lib/inner-lib-2.3.jar"),
        ("pkg:maven/org.inner.lib/other@9", "opt/app.jar:BOOT-INF/lib/other.jar"),
        ("pkg:maven/com.acme/shaded@1.0", "opt/app.jar"),
    ]


GEM = """# -*- encoding: utf-8 -*-
Gem::Specification.new do |s|
  s.name = "rake".freeze
  s.version = "13.0.6"
  s.authors = ["Hiroshi SHIBATA".freeze, "Eric Hodel".freeze]
  s.homepage = "https://github.com/ruby/#{s.name}".freeze
  s.licenses = ["MIT".freeze]
  s.add_dependency(%q<x>.freeze, [">= 1"])
end
"""


def test_gems_tell_by_their_specifications_and_all_of_it_is_in_a_document() -> None:
    tree = ArchiveTree()
    tree.add("usr/lib/ruby/gems/3.1.0/specifications/default/rake-13.0.6.gemspec", GEM.encode())
    tree.add("usr/lib/ruby/gems/3.1.0/specifications/odd.gemspec", b's.name = "odd"\ns.version = "#{x}"\n')
    tree.add("src/mine.gemspec", GEM.encode())
    head = (b"\xff Go buildinf:" + bytes([8, 2])).ljust(32, b"\0")
    tree.add("bin/app", executable(head + counted(b"go1.22.1") + counted(go_list(NEW))), 0o755)
    found = packages_in(tree)
    assert [one.purl for one in found if one.kind == "gem"] == ["pkg:gem/rake@13.0.6"]
    document = spdx_document(found, "linux/amd64", 0)
    rake = next(one for one in document["packages"] if one["name"] == "rake")
    assert (rake["supplier"], rake["homepage"]) == (
        "Person: Hiroshi SHIBATA, Eric Hodel",
        "https://github.com/ruby/rake",
    )
    names = {one["name"] for one in document["packages"]}
    assert {"github.com/a/b/v2", "stdlib"} <= names
    ids = [one["SPDXID"] for one in document["packages"]]
    assert len(set(ids)) == len(ids)
