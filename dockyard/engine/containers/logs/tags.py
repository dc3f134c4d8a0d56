"""The tag of a container's log: a template over what a log driver knows of the container.

    render("{{.Name}}/{{index .Config \"env\" | upper}}", container)

Its fields and functions are those of moby's daemon/logger (Info) and daemon/logger/templates.
"""

import socket
from collections.abc import Callable, Mapping

from dockyard.engine.containers.container import Container
from dockyard.errors import InvalidParameter

DEFAULT = "{{.ID}}"


def render(template: str, container: Container, attributes: Mapping[str, str]) -> str:
    """The tag; without a template the container's short id.

    `attributes` are the labels and variables that the log's options select. Raises SystemFailure for a template that
    can't be understood or carried out, in Docker's words.
    """
    template = template or DEFAULT
    for name, value in _TEXTS.items():  # most ask for no more
        if template == f"{{{{.{name}}}}}":
            return value(container)
    if "{{" not in template:
        return template
    # here alone: few need it, and the daemon starts sooner without
    from dockyard.gotemplate.template import ExecutionError, Record, Template, TemplateError

    config = container.config
    info = Record({name: value(container) for name, value in _TEXTS.items()})
    info |= {
        "Config": container.host_config.log_config.config or {},
        "ContainerEntrypoint": container.argv[0] if container.argv else "",
        "ContainerArgs": container.argv[1:],
        "ContainerCreated": container.record.created,
        "ContainerEnv": config.env or [],
        "ContainerLabels": config.labels or {},
        "LogPath": container.record.log_path,
    }
    info.type = "*logger.Info"
    info.methods = {"ExtraAttributes": lambda _key_mod: dict(attributes)}
    try:
        return Template(template, "log-tag").render(info)
    except (TemplateError, ExecutionError) as error:
        raise InvalidParameter(
            f"failed to create task for container: failed to initialize logging driver: {error}"
        ) from None


_TEXTS: dict[str, Callable[[Container], str]] = {
    "ID": lambda container: container.id[:12],
    "FullID": lambda container: container.id,
    "ContainerID": lambda container: container.id,
    "Name": lambda container: container.name,
    "ContainerName": lambda container: "/" + container.name,
    "Command": lambda container: " ".join(container.argv),
    "ImageID": lambda container: container.record.image_id.removeprefix("sha256:")[:12],
    "ImageFullID": lambda container: container.record.image_id,
    "ContainerImageID": lambda container: container.record.image_id,
    "ImageName": lambda container: container.config.image,
    "ContainerImageName": lambda container: container.config.image,
    "DaemonName": lambda _container: "docker",
    "Hostname": lambda _container: socket.gethostname(),
}
