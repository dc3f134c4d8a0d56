"""A git repository as a build context, cloned as docker does it: by the user's own git, with his keys and settings."""

from __future__ import annotations

import os
import shutil
import subprocess

from dockyard.cli.session import Failure


def checkout(url: str, folder: str) -> str:
    """Check `repository#reference:directory` out in the empty `folder`; the path of the directory. Raises Failure."""
    if shutil.which("git") is None:
        raise Failure("unable to prepare context: unable to find 'git' in PATH")
    repository, _, fragment = url.partition("#")
    reference, _, directory = fragment.partition(":")
    if repository.startswith("github.com/"):
        repository = f"https://{repository}"
    for part in (repository, reference):
        if part.startswith("-"):
            raise Failure(f"unable to prepare context: invalid git reference: {part}")
    _git(folder, "init", "--quiet")
    _git(folder, "remote", "add", "origin", repository)
    try:
        _git(folder, "fetch", "--quiet", "--depth=1", "--", "origin", reference or "HEAD")
    except Failure:  # a plain web server has no shallow clones, and a short name of a commit needs them all
        _git(folder, "fetch", "--quiet", "--tags", "--", "origin", "+refs/heads/*:refs/remotes/origin/*")
        _git(folder, "fetch", "--quiet", "--", "origin", reference or "HEAD")
    _git(folder, "checkout", "--quiet", "FETCH_HEAD")
    _git(folder, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
    shutil.rmtree(os.path.join(folder, ".git"))
    top = os.path.realpath(os.path.join(folder, directory.lstrip("/")))
    if top != folder and not top.startswith(f"{folder}/"):
        raise Failure(f"unable to prepare context: error setting git context, {directory!r} not within git root")
    if not os.path.isdir(top):
        raise Failure(f"unable to prepare context: error setting git context, not a directory: {directory}")
    return top


def _git(folder: str, *arguments: str) -> None:
    environment = {
        **os.environ,
        "GIT_PROTOCOL_FROM_USER": "0",
    }  # neither repositories of this host nor commands (ext::)
    done = subprocess.run(["git", "-C", folder, *arguments], env=environment, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise Failure(f"unable to prepare context: unable to 'git clone' to temporary context directory: {said}")
