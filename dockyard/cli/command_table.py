"""What can be typed: the commands by their groups, what else they are called, and the options before them.

A command's module is imported when the command is: `load` does that, and nothing else does.
"""

from __future__ import annotations

from dockyard.cli.usage import PROGRAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dockyard.cli.session import Session
    from dockyard.cli.usage import Flags

    Command = Callable[[Session, Flags], int | None]

# group -> module of dockyard.cli.commands -> the commands in it
COMMANDS: dict[str, dict[str, str]] = {
    "container": {
        "create": "create run",
        "attach": "attach exec start",
        "container": "kill pause port prune rename restart rm stop top unpause update wait",
        "observe": "diff inspect logs ls stats",
        "copy": "commit cp export",
        "extend": "fork",
    },
    "image": {
        "image": "history import inspect load ls prune rm save tag",
        "transfer": "pull push",
        "build": "build",
        "bake": "bake",
    },
    "volume": {"volume": "create inspect ls prune rm"},
    "network": {"network": "connect create disconnect explain inspect ls prune rm"},
    "system": {
        "disk": "df prune",
        "system": "events dial-stdio",
        "about": "info",
        "check": "fsck",
        "prerequisites": "check",
        "engine": "reset",
        "migrate": "import-docker",
    },
    "builder": {"build": "build", "disk": "builder_prune"},
    "checkpoint": {"checkpoint": "create ls rm"},
    "engine": {"engine": "logs restart start status stop"},
    "registry": {"registry": "garbage-collect serve"},
    "context": {"context": "create export import inspect ls rm show update use"},
    "": {
        "system": "inspect",
        "about": "version",
        "login": "login logout",
        "transfer": "search",
        "completion": "completion",
    },
}
ABOUT = {
    "builder": "Manage builds",
    "checkpoint": "Manage checkpoints",
    "container": "Manage containers",
    "context": "Manage contexts",
    "engine": "Start, stop and watch the engine of this host",
    "image": "Manage images",
    "network": "Manage networks",
    "registry": "Serve images to others",
    "system": "Manage the engine",
    "volume": "Manage volumes",
}
# commands with options and commands of their own, and what they are
WHOLE = {"compose": "Define and run applications of several containers"}
# a command without a group -> the group and command that it is
SHORT = {
    **{
        word: ("container", word)
        for module in COMMANDS["container"].values()
        for word in module.split()
        if word not in ("ls", "prune", "inspect")
    },
    **{word: ("image", word) for word in ("bake", "build", "history", "import", "load", "pull", "push", "save", "tag")},
    **{word: ("", word) for module in COMMANDS[""].values() for word in module.split()},
    "events": ("system", "events"),
    "images": ("image", "ls"),
    "info": ("system", "info"),
    "ps": ("container", "ls"),
    "rmi": ("image", "rm"),
}
# docker's commands that there is nothing behind, with what to say of each
ABSENT = {
    "manifest": " yet: `docker buildx imagetools` and skopeo work with manifest lists of registries",
    "plugin": ": managed plugins are kept by the engine and not run; volume and network drivers are built in",
    "trust": ": Docker Content Trust is at its end; cosign signs and verifies images of any registry",
    **dict.fromkeys(("config", "node", "secret", "service", "stack", "swarm"), " yet: there is no swarm"),
}
SYNONYMS = {"list": "ls", "remove": "rm"}
COMMON = ("run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version", "info")
OPTIONS = """\
      --config string      Folder of the client's configuration (default "~/.docker")
  -c, --context string     Context to use to reach the engine (instead of DOCKER_HOST and of what "context use" has set)
  -D, --debug              Enable debug mode
  -H, --host list          Engine to talk to
  -l, --log-level string   Level of what is logged ("debug", "info", "warn", "error", "fatal") (default "info")
      --no-autostart       Do not start an engine when none answers
      --tls                Use TLS; implied by --tlsverify
      --tlscacert string   Trust certificates signed by this CA only (default "~/.docker/ca.pem")
      --tlscert string     TLS certificate file (default "~/.docker/cert.pem")
      --tlskey string      TLS key file (default "~/.docker/key.pem")
      --tlsverify          Use TLS and verify the engine
  -v, --version            Print version information and quit"""
GLOBAL = f"{PROGRAM} [OPTIONS] COMMAND [ARG...]\n\nOptions:\n{OPTIONS}"
HIDDEN = ("dial-stdio",)  # for programs


def shown(group: str) -> list[str]:
    """The commands of a group that people type."""
    return [name for name in names(group) if name not in HIDDEN]


def names(group: str) -> list[str]:
    """The commands of a group."""
    return sorted(word.removeprefix("builder_") for words in COMMANDS[group].values() for word in words.split())


def load(group: str, name: str) -> Command:
    """A command's function, its module imported only now."""
    for module, words in COMMANDS[group].items():
        for word in words.split():
            if word.removeprefix("builder_") == name:
                found = __import__(f"dockyard.cli.commands.{module}", fromlist=["x"])
                command: Command = getattr(found, word + "_" if word in ("import", "exec") else word.replace("-", "_"))
                return command
    raise KeyError(name)


def aliases(group: str, name: str) -> list[str]:
    """Everything that a command is called: container ls, container list, container ps, ps."""
    found = [f"{group} {word}" for word in [name, *(old for old, new in SYNONYMS.items() if new == name)] if group]
    if (group, name) == ("container", "ls"):
        found.append("container ps")
    found += [word for word, meant in SHORT.items() if meant == (group, name)]
    if name == "build":
        found = ["image build", "build", "builder build"]
    return found
