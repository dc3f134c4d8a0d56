"""Compiled filters are found again, and only those that are to be trusted."""

import os
from pathlib import Path

import pytest

from dockyard.linux import seccomp
from dockyard.oci.runtime_spec import Seccomp, SeccompRule
from dockyard.runtime.security import seccomp_cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "filters"
    monkeypatch.setattr(seccomp_cache, "FOLDER", str(path))
    return path


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Seccomp]:
    """The profiles that had to be compiled."""
    made: list[Seccomp] = []
    compile_profile = seccomp.compile_profile

    def noted(profile: Seccomp) -> bytes:
        made.append(profile)
        return compile_profile(profile)

    monkeypatch.setattr(seccomp, "compile_profile", noted)
    return made


def profile_of(*names: str) -> Seccomp:
    rule = SeccompRule(names=list(names), action="SCMP_ACT_ERRNO")
    return Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[rule])


def test_a_filter_is_compiled_once(folder: Path, compilations: list[Seccomp]) -> None:
    first = seccomp_cache.compiled(profile_of("getcwd"))
    assert seccomp_cache.compiled(profile_of("getcwd")) == first
    assert seccomp_cache.compiled(profile_of("chdir")) != first
    assert len(compilations) == 2
    assert folder.stat().st_mode & 0o777 == 0o700


def test_profiles_whose_names_there_are_the_same_are_told_apart(
    folder: Path, compilations: list[Seccomp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("binascii.crc32", lambda text: 7)
    first = seccomp_cache.compiled(profile_of("getcwd"))
    assert seccomp_cache.compiled(profile_of("chdir")) != first
    assert seccomp_cache.compiled(profile_of("getcwd")) == first
    assert len(compilations) == 3


@pytest.mark.parametrize("damage", [b"", b"\xff", b"\x00" * 300])
def test_a_damaged_file_is_replaced(folder: Path, compilations: list[Seccomp], damage: bytes) -> None:
    expected = seccomp_cache.compiled(profile_of("getcwd"))
    (kept,) = folder.iterdir()
    kept.write_bytes(damage)
    assert seccomp_cache.compiled(profile_of("getcwd")) == expected
    assert seccomp_cache.compiled(profile_of("getcwd")) == expected
    assert len(compilations) == 2


def test_where_others_may_write_nothing_is_believed(folder: Path, compilations: list[Seccomp]) -> None:
    seccomp_cache.compiled(profile_of("getcwd"))
    folder.chmod(0o777)
    seccomp_cache.compiled(profile_of("getcwd"))
    folder.chmod(0o700)
    os.chown(folder, 1000, 1000)
    seccomp_cache.compiled(profile_of("getcwd"))
    assert len(compilations) == 3


def test_only_so_many_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp_cache, "MOST", 3)
    for name in ("getcwd", "chdir", "fchdir", "rename", "mkdir"):
        seccomp_cache.compiled(profile_of(name))
    assert len(list(folder.iterdir())) <= 3


def test_a_wrong_profile_is_refused_each_time(folder: Path) -> None:
    wrong = Seccomp(default_action="SCMP_ACT_NONE")
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid seccomp action"):
            seccomp_cache.compiled(wrong)
