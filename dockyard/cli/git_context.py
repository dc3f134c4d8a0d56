"""A git repository as a build context, cloned as docker does it: by the user's own git, with his keys and settings."""

from __future__ import annotations

import os
import shutil
import subprocess

from dockyard.cli.errors import Failure
from dockyard.dockerfile import git_source


def checkout(url: str, folder: str) -> str:
    """Check `repository#reference:directory` out in the empty `folder`; the path of the directory. Raises Failure."""
    if shutil.which("git") is None:
        raise Failure("unable to prepare context: unable to find 'git' in PATH")
    try:
        source = git_source.parse(url)
    except ValueError as error:
        raise Failure(f"unable to prepare context: {error}") from None
    _git(folder, "init", "--quiet")
    _git(folder, "remote", "add", "origin", source.repository)
    wanted = source.reference or source.commit or "HEAD"
    try:
        _git(folder, "fetch", "--quiet", "--depth=1", "--", "origin", wanted)
    except Failure:  # a plain web server has no shallow clones
        _git(folder, "fetch", "--quiet", "--", "origin", wanted)
    _git(folder, "checkout", "--quiet", "FETCH_HEAD")
    _git(folder, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
    shutil.rmtree(os.path.join(folder, ".git"))
    try:
        return git_source.top(folder, source.directory)
    except ValueError as error:
        raise Failure(f"unable to prepare context: {error}") from None


def _git(folder: str, *arguments: str) -> None:
    # neither repositories of this host nor commands (ext::), also where a submodule asks for them
    environment = {**os.environ, "GIT_PROTOCOL_FROM_USER": "0"}
    done = subprocess.run(["git", "-C", folder, *arguments], env=environment, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise Failure(f"unable to prepare context: unable to 'git clone' to temporary context directory: {said}")
