"""The proxies of ~/.docker/config.json, as variables for containers."""

from __future__ import annotations

from typing import Any

_NAMES = {"http": "httpProxy", "https": "httpsProxy", "ftp": "ftpProxy", "no_proxy": "noProxy"}


class ProxyConfig(dict[str, str]):
    """Proxies by kind: http, https, ftp, no_proxy."""

    @staticmethod
    def from_dict(config: dict[str, Any]) -> ProxyConfig:
        """From an entry of the configuration's `proxies`."""
        found = {kind: config.get(name, config.get(kind)) for kind, name in _NAMES.items()}
        return ProxyConfig({kind: value for kind, value in found.items() if value})

    def get_environment(self) -> dict[str, str]:
        """The variables, in both spellings."""
        found = {}
        for kind, value in self.items():
            name = kind if kind == "no_proxy" else f"{kind}_proxy"
            found[name] = found[name.upper()] = value
        return found

    def inject_proxy_environment(self, environment: list[str] | None) -> list[str] | None:
        """The variables before those that are given, which so have the last word."""
        if not self:
            return environment
        return [f"{name}={value}" for name, value in self.get_environment().items()] + list(environment or ())
