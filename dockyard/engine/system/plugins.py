"""Managed plugins as they are kept: created from an archive of config.json and rootfs/, listed, configured, removed.

They are not run: what a plugin does (volumes, networks, logs) the engine brings itself.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from dockyard.engine.events.service import Events
from dockyard.engine.state.database import Database
from dockyard.errors import Conflict, InvalidParameter, NotFound
from dockyard.folders import own_folder
from dockyard.linux.durability import sync_names, sync_path
from dockyard.oci.reference import Reference

LARGEST_CONFIG = 1 << 20


class Plugin(msgspec.Struct):
    """One plugin: its id, its name with tag, its config.json as it is, and the settings made."""

    id: str
    name: str
    config: dict[str, Any]
    env: list[str]
    args: list[str]


class PluginService:
    """Every plugin of this engine."""

    def __init__(self, root: Path, database: Database, events: Events) -> None:
        self._root = own_folder(root)
        self._rows = database.collection("plugins", Plugin)
        self._events = events
        self._plugins = dict(self._rows.all())
        for folder in self._root.iterdir():  # what a crash has left
            if folder.name not in self._plugins and not database.unreadable:
                shutil.rmtree(folder, ignore_errors=True)

    def all(self) -> list[Plugin]:
        """Every plugin, the oldest first."""
        return list(self._plugins.values())

    def get(self, name: str) -> Plugin:
        """The plugin of that name or id. Raises NotFound."""
        for plugin in self._plugins.values():
            if name in (plugin.name, plugin.id) or f"{name}:latest" == plugin.name:
                return plugin
        raise NotFound(f'plugin "{name}" not found')

    async def create(self, name: str, archive: AsyncIterator[bytes]) -> Plugin:
        """Keep a plugin. Raises InvalidParameter for an archive without config.json, Conflict for a name taken."""
        full = Reference.parse(name).or_latest().familiar()
        if any(plugin.name == full for plugin in self._plugins.values()):
            raise Conflict(f'plugin "{full}" already exists')
        plugin_id = secrets.token_hex(32)
        folder = self._root / plugin_id
        folder.mkdir(mode=0o700)
        try:
            with (folder / "plugin.tar").open("wb") as file:
                async for piece in archive:
                    file.write(piece)
            config = await asyncio.to_thread(_read_config, folder / "plugin.tar")
            env = [f"{entry.get('name', '')}={entry.get('value') or ''}" for entry in config.get("env") or []]
            plugin = Plugin(plugin_id, full, config, env, list((config.get("args") or {}).get("value") or []))
            await asyncio.to_thread(sync_path, str(folder / "plugin.tar"))
            await asyncio.to_thread(sync_names, str(folder))
            self._rows.put(plugin_id, plugin)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._plugins[plugin_id] = plugin
        self._events.emit("plugin", "create", plugin_id, {"name": full})
        return plugin

    def configure(self, name: str, settings: list[str]) -> None:
        """Set variables (KEY=VALUE) and arguments (args=…). Raises NotFound, InvalidParameter."""
        plugin = self.get(name)
        known = {entry.partition("=")[0] for entry in plugin.env}
        env, args = dict(entry.split("=", 1) for entry in plugin.env), plugin.args
        for setting in settings:
            key, _, value = setting.partition("=")
            if key == "args":
                args = value.split()
            elif key in known:
                env[key] = value
            else:
                raise InvalidParameter(f'setting "{key}" not found in the plugin configuration')
        plugin.env, plugin.args = [f"{key}={value}" for key, value in env.items()], args
        self._rows.put(plugin.id, plugin)

    def remove(self, name: str) -> None:
        """Remove it. Raises NotFound."""
        plugin = self.get(name)
        self._rows.delete(plugin.id)
        del self._plugins[plugin.id]
        shutil.rmtree(self._root / plugin.id, ignore_errors=True)
        self._events.emit("plugin", "remove", plugin.id, {"name": plugin.name})


def _read_config(path: Path) -> dict[str, Any]:
    config, rootfs = None, False
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = os.path.normpath(member.name)
                rootfs |= name == "rootfs" or name.startswith("rootfs/")
                if name == "config.json" and member.isfile() and member.size <= LARGEST_CONFIG:
                    with contextlib.closing(archive.extractfile(member)) as file:  # type: ignore[type-var]  # a file
                        config = json.load(file)  # type: ignore[arg-type]  # as above
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise InvalidParameter(f"error reading the plugin: {error}") from error
    if not isinstance(config, dict):
        raise InvalidParameter("config.json is missing in the plugin")
    if not rootfs:
        raise InvalidParameter("rootfs is missing in the plugin")
    return config
