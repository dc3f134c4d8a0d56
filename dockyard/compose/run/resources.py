"""A project's networks and volumes: made when they are not there, made anew when they are otherwise than asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dockyard.client.errors import APIError, Conflict, NotFound
from dockyard.compose.errors import ComposeError
from dockyard.compose.model.hashes import network_hash, volume_hash
from dockyard.compose.plan import labels
from dockyard.compose.plan.observed import of_services
from dockyard.compose.plan.order import together
from dockyard.compose.run.one_pass import Steps
from dockyard.compose.run.progress import DONE, ERROR, WARNING
from dockyard.compose.run.stopping import remove_containers, stop_services

if TYPE_CHECKING:
    from collections.abc import Callable

    from dockyard.compose.run.application import Application
    from dockyard.compose.run.one_pass import OnePass

Tree = dict[str, Any]

IN_USE, GONE = 403, 404  # how the engine refuses to remove a network


# -- networks


def ensure_networks(application: Application, at_once: OnePass | None = None) -> dict[str, str]:
    """The IDs of the project's networks by key; "" for those that are to be made by `at_once`.

    Raises ComposeError, APIError.
    """
    found: dict[str, str] = {}

    def one(key: str) -> Callable[[], None]:
        def work() -> None:
            found[key] = _ensure_network(application, key, application.project.networks[key], at_once)

        return work

    together([one(key) for key in sorted(application.project.networks)], application.limit)
    return found


def _ensure_network(application: Application, key: str, network: Tree, at_once: OnePass | None) -> str:
    if network.get("external"):
        return _external_network(application, network)
    try:
        return _find_or_create(application, key, network, at_once)
    except Conflict:
        # somebody else has made it meanwhile
        return _find_or_create(application, key, network)


def _external_network(application: Application, network: Tree) -> str:
    name = network["name"]
    rows = [row for row in application.engine.networks(name=[name]) if row["Name"] == name]
    if len(rows) > 1:
        raise ComposeError(
            f'multiple networks with name "{name}" were found. Use network ID as `name` to avoid ambiguity'
        )
    if rows:
        return str(rows[0]["Id"])
    by_id = application.engine.network(name)
    if by_id is not None and by_id["Id"] == name:
        return str(name)
    raise ComposeError(f"network {name} declared as external, but could not be found")


def _find_or_create(application: Application, key: str, network: Tree, at_once: OnePass | None = None) -> str:
    engine, project, name = application.engine, application.project, network["name"]
    digest = network_hash(network)
    dangling: list[str] = []
    there = engine.network(name)
    if there is not None and name in (there["Name"], there["Id"]):
        marks = there.get("Labels") or {}
        _whose_network(application, name, marks)
        if marks.get(labels.NETWORK) != key:
            raise ComposeError(
                f"network {name} was found but has incorrect label {labels.NETWORK} set to "
                f'"{marks.get(labels.NETWORK, "")}" (expected: "{key}")'
            )
        if marks.get(labels.CONFIG_HASH, "") in ("", digest):
            return str(there["Id"])
        dangling = _remove_diverged(application, key, name)
    rows = [row for row in engine.networks(name=[name]) if row["Name"] == name]
    for row in rows:
        marks = row.get("Labels") or {}
        if marks.get(labels.PROJECT) == project.name and marks.get(labels.NETWORK) == key:
            return str(row["Id"])
    if rows:
        application.warn(
            f"a network with name {name} exists but was not created by compose.\n"
            "Set `external: true` to use an existing network"
        )
        return str(rows[0]["Id"])
    if at_once is not None and not dangling:
        _create_at_once(application, key, network, digest, at_once)
        return ""
    made = _create_network(application, key, network, digest)
    for container in dangling:
        engine.post(f"/networks/{made}/connect", {"Container": container})
    return made


def _whose_network(application: Application, name: str, marks: dict[str, str]) -> None:
    owner = marks.get(labels.PROJECT)
    if owner is None:
        application.warn(
            f"a network with name {name} exists but was not created by compose.\n"
            "Set `external: true` to use an existing network"
        )
    elif owner != application.project.name:
        application.warn(
            f'a network with name {name} exists but was not created for project "{application.project.name}".\n'
            "Set `external: true` to use an existing network"
        )


def _remove_diverged(application: Application, key: str, name: str) -> list[str]:
    """Remove a network that is otherwise than asked for; the IDs of containers to be connected to the new one."""
    project, engine = application.project, application.engine
    application.disturbed.append(name)
    services = [one for one, service in project.services.items() if key in (service.get("networks") or {})]
    stop_services(application, services)
    containers = of_services(engine.containers(project.name), services)
    for container in containers:
        try:
            engine.post(f"/networks/{name}/disconnect", {"Container": container.id, "Force": True})
        except NotFound:
            pass  # it was not connected
    engine.delete(f"/networks/{name}")
    application.progress.event(f"Network {name}", "Removed")
    return [container.id for container in containers]


def _network_body(application: Application, key: str, network: Tree, digest: str) -> Tree:
    body: Tree = {
        "Name": network["name"],
        "CheckDuplicate": True,
        "Driver": network.get("driver") or "bridge",
        "Options": network.get("driver_opts") or {},
        "Internal": bool(network.get("internal")),
        "Attachable": bool(network.get("attachable")),
        "Labels": {
            **(network.get("labels") or {}),
            **labels.of_network(application.project, key),
            labels.CONFIG_HASH: digest,
            **application.lease,
        },
    }
    for field, name in (("enable_ipv4", "EnableIPv4"), ("enable_ipv6", "EnableIPv6")):
        if field in network:
            body[name] = network[field]
    ipam = network.get("ipam") or {}
    if ipam.get("driver") or ipam.get("config"):
        body["IPAM"] = {
            **({"Driver": ipam["driver"]} if ipam.get("driver") else {}),
            "Config": [_pool(pool) for pool in ipam.get("config") or ()],
        }
    return body


def _create_network(application: Application, key: str, network: Tree, digest: str) -> str:
    steps = _network_steps(application, network)
    steps.begun()
    try:
        made = application.engine.post("/networks/create", _network_body(application, key, network, digest))
    except Conflict:
        raise
    except APIError as error:
        raise steps.failed(error) from None
    steps.done(201, made)
    return str(made["Id"])


def _create_at_once(application: Application, key: str, network: Tree, digest: str, at_once: OnePass) -> None:
    body = _network_body(application, key, network, digest)
    at_once.add(network_key(network), "POST", "/networks/create", _network_steps(application, network), body=body)


def network_key(network: Tree) -> str:
    """By which what comes after the network's making names it."""
    return f"network {network['name']}"


def _network_steps(application: Application, network: Tree) -> Steps:
    event = f"Network {network['name']}"

    def failed(error: APIError) -> Exception:
        application.progress.event(event, "Error", ERROR)
        return ComposeError(f"failed to create network {network['name']}: Error response from daemon: {error.message}")

    return Steps(
        lambda: application.progress.event(event, "Creating"),
        lambda status, answer: application.progress.event(event, "Created"),
        failed,
    )


def _pool(pool: Tree) -> Tree:
    fields = {
        "Subnet": pool.get("subnet"),
        "IPRange": pool.get("ip_range"),
        "Gateway": pool.get("gateway"),
        "AuxiliaryAddresses": pool.get("aux_addresses"),
    }
    return {name: value for name, value in fields.items() if value}


def remove_networks(application: Application) -> list[Callable[[], None]]:
    """What removes the project's own networks."""

    def one(key: str, name: str) -> Callable[[], None]:
        return lambda: _remove_network(application, key, name)

    return [one(key, name) for key, name in own_networks(application)]


def own_networks(application: Application) -> list[tuple[str, str]]:
    """Keys and names of the networks that are the project's."""
    return [
        (key, network["name"])
        for key, network in sorted(application.project.networks.items())
        if not network.get("external")
    ]


def _marked_networks(application: Application, key: str) -> list[Tree]:
    marks = [f"{labels.PROJECT}={application.project.name}", f"{labels.NETWORK}={key}"]
    return application.engine.networks(label=marks)


def remove_networks_at_once(application: Application, at_once: OnePass, after: list[str]) -> None:
    """The same as part of `at_once`, once what is in `after` is done."""
    for key, name in own_networks(application):
        rows = _marked_networks(application, key)
        named = [row for row in rows if row["Name"] == name]
        if rows and not named:
            application.progress.event(f"Network {name}", "No resource found to remove", WARNING)
        for row in named:
            at_once.add(
                f"remove network {row['Id']}",
                "DELETE",
                f"/networks/{row['Id']}",
                _removal_steps(application, name),
                after=after,
                tolerated=(IN_USE, GONE),
            )


def _removal_steps(application: Application, name: str) -> Steps:
    event = f"Network {name}"

    def done(status: int, answer: Tree) -> None:
        if status == IN_USE:
            application.progress.event(event, "Resource is still in use", WARNING)
        elif status == GONE:
            application.progress.event(event, "No resource found to remove", WARNING)
        else:
            application.progress.event(event, "Removed")

    def failed(error: APIError) -> Exception:
        application.progress.event(event, "Error", ERROR)
        return ComposeError(f"failed to remove network {name}: Error response from daemon: {error.message}")

    return Steps(lambda: application.progress.event(event, "Removing"), done, failed)


def _remove_network(application: Application, key: str, name: str) -> None:
    rows = _marked_networks(application, key)
    if not rows:
        return
    steps = _removal_steps(application, name)
    steps.begun()
    found = False
    for row in rows:
        if row["Name"] != name:
            continue
        there = application.engine.network(row["Id"])
        if there is not None and there.get("Containers"):
            steps.done(IN_USE, {})
            found = True
            continue
        try:
            application.engine.delete(f"/networks/{row['Id']}")
        except NotFound:
            continue
        except APIError as error:
            raise steps.failed(error) from None
        steps.done(204, {})
        found = True
    if not found:
        steps.done(GONE, {})


# -- volumes


def ensure_volumes(application: Application, confirm: Callable[[str], bool]) -> dict[str, str]:
    """The names of the project's volumes by key; `confirm` is asked before data would be lost.

    Raises ComposeError, APIError.
    """
    return {
        key: _ensure_volume(application, key, volume, confirm)
        for key, volume in sorted(application.project.volumes.items())
    }


def _ensure_volume(application: Application, key: str, volume: Tree, confirm: Callable[[str], bool]) -> str:
    name = str(volume["name"])
    there = application.engine.volume(name)
    if there is None:
        if volume.get("external"):
            raise ComposeError(f'external volume "{name}" not found')
        _create_volume(application, key, volume)
        return name
    if volume.get("external"):
        return name
    marks = there.get("Labels") or {}
    owner, project = marks.get(labels.PROJECT), application.project.name
    if owner is None:
        application.warn(
            f'volume "{name}" already exists but was not created by Docker Compose. '
            "Use `external: true` to use an existing volume"
        )
    elif owner != project:
        application.warn(
            f'volume "{name}" already exists but was created for project "{owner}" (expected "{project}"). '
            "Use `external: true` to use an existing volume"
        )
    digest = marks.get(labels.CONFIG_HASH)
    question = f'Volume "{name}" exists but doesn\'t match configuration in compose file. Recreate (data will be lost)?'
    if digest is not None and digest != volume_hash(volume) and confirm(question):
        _remove_diverged_volume(application, key, name)
        _create_volume(application, key, volume)
    return name


def _remove_diverged_volume(application: Application, key: str, name: str) -> None:
    project = application.project
    application.disturbed.append(name)
    services = [
        one
        for one, service in project.services.items()
        if any(mount.get("source") == key for mount in service.get("volumes") or ())
    ]
    stop_services(application, services)
    remove_containers(application, of_services(application.engine.containers(project.name), services))
    application.engine.delete(f"/volumes/{name}", force=True)


def _create_volume(application: Application, key: str, volume: Tree) -> None:
    event = f"Volume {volume['name']}"
    application.progress.event(event, "Creating")
    body = {
        "Name": volume["name"],
        "Driver": volume.get("driver") or "",
        "DriverOpts": volume.get("driver_opts") or {},
        "Labels": {
            **(volume.get("labels") or {}),
            **labels.of_volume(application.project, key),
            labels.CONFIG_HASH: volume_hash(volume),
            **application.lease,
        },
    }
    try:
        application.engine.post("/volumes/create", body)
    except APIError:
        application.progress.event(event, "Error", ERROR)
        raise
    application.progress.event(event, "Created")


def remove_volumes(application: Application) -> list[Callable[[], None]]:
    """What removes the project's own volumes."""

    def one(name: str) -> Callable[[], None]:
        return lambda: _remove_volume(application, name)

    return [
        one(str(volume["name"]))
        for _, volume in sorted(application.project.volumes.items())
        if not volume.get("external")
    ]


def _remove_volume(application: Application, name: str) -> None:
    if application.engine.volume(name) is None:
        return
    event = f"Volume {name}"
    application.progress.event(event, "Removing")
    try:
        application.engine.delete(f"/volumes/{name}", force=True)
    except Conflict:
        application.progress.event(event, "Resource is still in use", WARNING)
    except NotFound:
        application.progress.event(event, "Warning: No resource found to remove", DONE)
    else:
        application.progress.event(event, "Removed")
