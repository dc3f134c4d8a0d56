"""`registry`: a registry of one's own. The server is another program: here its options are found out."""

from __future__ import annotations

import os
import sys

from dockyard.cli.session import Session
from dockyard.cli.usage import Flags, usage

# flag -> setting
_SETTINGS = {
    "addr": "http.addr",
    "htpasswd": "auth.htpasswd.path",
    "proxy": "proxy.remoteurl",
    "storage": "storage.filesystem.rootdirectory",
    "tls-cert": "http.tls.certificate",
    "tls-key": "http.tls.key",
    "workers": "workers",
}
# What holds without a file of settings: nobody but this host comes in, and what is sent can be taken out again.
_WITHOUT_CONFIG = ("http.addr=127.0.0.1:5000", "storage.delete.enabled=true")


@usage(
    """
dockyard registry serve [OPTIONS] [CONFIG]

Serve a registry, as CONFIG (distribution's config.yml) and REGISTRY_* variables say

Options:
      --addr string       Address to listen on (default "127.0.0.1:5000", with CONFIG its own)
      --htpasswd string   File of users and bcrypt hashes of their passwords; who is in it may do all
      --proxy string      URL of a registry to be a cache of
      --read-only         Take nothing in
      --set list          Any other setting, by its name in CONFIG: storage.delete.enabled=false
      --storage string    Folder to keep content in (default "/var/lib/registry", with CONFIG its own)
      --tls-cert string   TLS certificate file
      --tls-key string    TLS key file
      --workers int       Processes that serve (default 1)
"""
)
def serve(session: Session, flags: Flags) -> int:
    """Become the server."""
    settings = [] if flags.arguments else list(_WITHOUT_CONFIG)
    settings += [f"{name}={flags.text(flag)}" for flag, name in _SETTINGS.items() if flags.given(flag)]
    if flags.on("read-only"):
        settings.append("storage.maintenance.readonly.enabled=true")
    return _become("serve", settings + flags.all("set"), [], flags.arguments)


@usage(
    """
dockyard registry garbage-collect [OPTIONS] [CONFIG]

Delete what no manifest names any more, while the registry goes on

Options:
  -m, --delete-untagged   Delete manifests without tags first
  -d, --dry-run           Only say what would be deleted
      --grace duration    Keep what is younger (default 1h)
  -q, --quiet             Name no blobs
      --set list          Any setting, by its name in CONFIG
      --storage string    Folder with the content (default "/var/lib/registry", with CONFIG its own)
"""
)
def garbage_collect(session: Session, flags: Flags) -> int:
    """Become the collector."""
    settings = [f"{_SETTINGS['storage']}={flags.text('storage')}"] if flags.given("storage") else []
    words = [f"--{name}" for name in ("delete-untagged", "dry-run", "quiet") if flags.on(name)]
    words += ["--grace", flags.text("grace", "1h")]
    return _become("garbage-collect", settings + flags.all("set"), words, flags.arguments)


def _become(command: str, settings: list[str], words: list[str], rest: list[str]) -> int:
    set_words = [word for setting in settings for word in ("--set", setting)]
    sys.stdout.flush()
    program = [sys.executable, "-EP", "-m", "dockyard.registry", command]
    os.execv(sys.executable, [*program, *words, *set_words, *rest])
