"""Operations on managed plugins: they are kept, but not run."""

from typing import Any

import msgspec

from dockyard import web
from dockyard.api import json_body
from dockyard.api.router import Call, Route, json_response, no_content
from dockyard.api.services import Services
from dockyard.engine.system.plugins import Plugin
from dockyard.errors import DockyardError, InvalidParameter, NotImplementedHere
from dockyard.oci.reference import Reference


class Part(msgspec.Struct, rename="pascal"):
    """The base of what follows; the names in config.json match in any case."""


class Interface(Part):
    """What the plugin serves, and where."""

    types: list[str] = []
    socket: str = ""


class User(Part):
    """Who it runs as."""

    uid: int = msgspec.field(default=0, name="UID")
    gid: int = msgspec.field(default=0, name="GID")


class Network(Part):
    """Its network."""

    type: str = ""


class Variable(Part):
    """A variable of its environment."""

    name: str = ""
    description: str = ""
    settable: list[str] | None = None
    value: str | None = None


class Arguments(Part):
    """Its arguments."""

    name: str = ""
    description: str = ""
    settable: list[str] | None = None
    value: list[str] = []


class Linux(Part):
    """What it needs of the kernel."""

    capabilities: list[str] = []
    allow_all_devices: bool = False
    devices: list[dict[str, Any]] = []


class Config(Part, kw_only=True):
    """A plugin's config.json as the API shows it."""

    docker_version: str = ""
    description: str = ""
    documentation: str = ""
    interface: Interface = msgspec.field(default_factory=Interface)
    entrypoint: list[str] = []
    work_dir: str = ""
    user: User = msgspec.field(default_factory=User)
    network: Network = msgspec.field(default_factory=Network)
    linux: Linux = msgspec.field(default_factory=Linux)
    propagated_mount: str = ""
    ipc_host: bool = False
    pid_host: bool = False
    mounts: list[dict[str, Any]] = []
    env: list[Variable] = []
    args: Arguments = msgspec.field(default_factory=Arguments)


def routes(services: Services) -> list[Route]:
    """Operations on plugins."""
    plugins = Plugins(services)
    return [
        Route("GET", "/plugins", plugins.list_all),
        Route("GET", "/plugins/privileges", plugins.privileges),
        Route("POST", "/plugins/pull", plugins.pull),
        Route("POST", "/plugins/create", plugins.create),
        Route("GET", "/plugins/{name:path}/json", plugins.inspect),
        Route("DELETE", "/plugins/{name:path}", plugins.remove),
        Route("POST", "/plugins/{name:path}/set", plugins.configure),
        Route("POST", "/plugins/{name:path}/disable", plugins.disable),
        *(Route("POST", f"/plugins/{{name:path}}/{action}", plugins.run) for action in ("enable", "upgrade", "push")),
    ]


class Plugins:
    """Their handlers."""

    def __init__(self, services: Services) -> None:
        self._plugins = services.plugins
        self._images = services.images

    async def list_all(self, call: Call) -> web.StreamResponse:
        filters = call.filters()
        for name in filters:
            if name not in ("enabled", "capability"):
                raise InvalidParameter(f"invalid filter '{name}'")
        shown = [] if "true" in filters.get("enabled", []) else [plugin_json(plugin) for plugin in self._plugins.all()]
        wanted = filters.get("capability", [])
        if wanted:
            shown = [
                plugin
                for plugin in shown
                if any(kind.lower().split("/")[0].endswith(f".{name}") for kind in plugin["Config"].interface.types
                       for name in wanted)
            ]  # fmt: skip
        return json_response(shown)

    async def inspect(self, call: Call) -> web.StreamResponse:
        return json_response(plugin_json(self._plugins.get(call.params["name"])))

    async def create(self, call: Call) -> web.StreamResponse:
        await self._plugins.create(call.text("name"), call.chunks())
        return no_content()

    async def configure(self, call: Call) -> web.StreamResponse:
        self._plugins.configure(call.params["name"], await call.body(list[str]))
        return no_content()

    async def remove(self, call: Call) -> web.StreamResponse:
        shown = plugin_json(self._plugins.get(call.params["name"]))
        self._plugins.remove(call.params["name"])
        return json_response(shown)

    async def privileges(self, call: Call) -> web.StreamResponse:
        if not call.text("remote"):
            raise InvalidParameter("a plugin reference is needed")
        Reference.parse(call.text("remote"))
        return json_response([])  # as Docker answers for a plugin that it can't look at

    async def pull(self, call: Call) -> web.StreamResponse:
        reference = Reference.parse(call.text("remote"))
        raise NotImplementedHere(f"plugins are not run by this engine, so {reference.familiar()} is not pulled")

    async def disable(self, call: Call) -> web.StreamResponse:
        plugin = self._plugins.get(call.params["name"])
        raise InvalidParameter(f"plugin {plugin.name} is already disabled")

    async def run(self, call: Call) -> web.StreamResponse:
        plugin = self._plugins.get(call.params["name"])
        raise NotImplementedHere(f"plugins are not run by this engine: {plugin.name}")


def plugin_json(plugin: Plugin) -> dict[str, Any]:
    """A plugin as the API shows it."""
    try:
        config = json_body.decode(msgspec.json.encode(plugin.config), Config)
    except DockyardError:
        config = Config()
    return {
        "Id": plugin.id,
        "Name": plugin.name,
        "Enabled": False,
        "Settings": {
            "Mounts": config.mounts,
            "Env": plugin.env,
            "Args": plugin.args,
            "Devices": config.linux.devices,
        },
        "PluginReference": str(Reference.parse(plugin.name)),
        "Config": config,
    }
