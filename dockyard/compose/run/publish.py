"""Publishing a project: its files as an artifact of a registry, from which `-f oci://…` runs it elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.client.address import config_folder
from dockyard.client.registry import INDEXES, Registry, RegistryError, digest_of
from dockyard.compose.errors import ComposeError
from dockyard.compose.model.render import as_yaml
from dockyard.compose.plan import artifact
from dockyard.compose.plan.sensitive import findings_in
from dockyard.compose.run.images import push_images
from dockyard.compose.run.progress import DONE, ERROR, WORKING
from dockyard.errors import InvalidParameter
from dockyard.oci.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from dockyard.compose.model.project import Project
    from dockyard.compose.run.application import Application

Tree = dict[str, Any]


class PublishRequest(NamedTuple):
    """What `compose publish` takes. `confirm` is asked unless `yes`."""

    repository: str
    confirm: Callable[[str], bool]
    digests: bool = False
    images: bool = False
    environment: bool = False
    version: str = ""
    yes: bool = False


def publish(application: Application, request: PublishRequest) -> None:
    """Publish the project, of all profiles. Raises ComposeError, ClientError."""
    project = application.project.with_enabled(list(application.project.all_services()))
    application = application.of(project)
    if not accepted(project, request):
        return
    progress = application.progress
    with progress:
        pushed = {name: one for name, one in project.services.items() if "build" in one and one.get("image")}
        if not application.engine.dry:
            push_images(application.of(project.with_(services=pushed)), ignore_failures=True)
        layers = artifact.layers_of(project, environment=request.environment)
        if request.digests or request.images:
            layers.append(artifact.digests_layer(_pinned(application, project)))
        progress.event(request.repository, "", WORKING, text="publishing")
        if not application.engine.dry:
            try:
                _store(application, request, layers)
            except RegistryError:
                progress.event(request.repository, "", ERROR, text="publishing")
                raise
        progress.event(request.repository, "", DONE, text="published")


# -- what is asked before


def accepted(project: Project, request: PublishRequest) -> bool:
    """Whether it may be published: nothing may leave this host unseen. Raises ComposeError."""
    only_built = [name for name, one in project.services.items() if not one.get("image") and "build" in one]
    if only_built:
        listed = "".join(f'- "{name}"\n' for name in only_built)
        raise ComposeError(
            "your Compose stack cannot be published as it only contains a build section for service(s):\n" + listed
        )
    variables = _variables(project, request)
    if request.yes:
        return True
    for question in (_about_binds(project), _about_secrets(project), _about_variables(variables)):
        if question and not request.confirm(question):
            return False
    return True


def _about_binds(project: Project) -> str:
    found = ""
    for name, service in project.services.items():
        binds = [mount for mount in service.get("volumes") or () if mount.get("type") == "bind"]
        if binds:
            found += name + "".join(f"{mount.get('source', '')}:{mount.get('target', '')}\n" for mount in binds)
    if not found:
        return ""
    return (
        "you are about to publish bind mounts declaration within your OCI artifact.\n"
        "only the bind mount declarations will be added to the OCI artifact (not content)\n"
        "please double check that you are not mounting potential user's sensitive directories or data\n"
        f"{found}Are you ok to publish these bind mount declarations?"
    )


def _about_secrets(project: Project) -> str:
    found = findings_in(project)
    if not found:
        return ""
    listed = "".join(f'{one.kind}\n"{one.key}": {one.value}\n' for one in found)
    return (
        "you are about to publish sensitive data within your OCI artifact.\n"
        f"please double check that you are not leaking sensitive data\n{listed}"
        "Are you ok to publish these sensitive data?"
    )


def _variables(project: Project, request: PublishRequest) -> dict[str, Tree]:
    """The variables of services and configs. Raises ComposeError when there are some that may not be published."""
    found: dict[str, Tree] = {}
    errors: list[str] = []
    for name, service in project.services.items():
        if service.get("env_file"):
            errors.append(f'service "{name}" has env_file declared.')
        if service.get("environment"):
            errors.append(f'service "{name}" has environment variable(s) declared.')
            found[name] = service["environment"]
    for definition in project.configs.values():
        if definition.get("environment"):
            name = definition.get("name", "")
            errors.append(f'config "{name}" is declare as an environment variable.')
            found[name] = {name: definition["environment"]}
    if errors and not request.environment:
        raise ComposeError(
            "".join(f"{error}\n" for error in errors)
            + "To avoid leaking sensitive data, you must either explicitly allow the sending of environment variables "
            "by using the --with-env flag,\nor remove sensitive data from your Compose configuration"
        )
    return found


def _about_variables(found: dict[str, Tree]) -> str:
    if not found:
        return ""
    listed = ""
    for name, variables in found.items():
        listed += f"Service/Config  {name}\n"
        listed += "".join(f"{key}={'' if value is None else value}\n" for key, value in variables.items())
    return (
        "you are about to publish environment variables within your OCI artifact.\n"
        f"please double check that you are not leaking sensitive data\n{listed}"
        "Are you ok to publish these environment variables?"
    )


# -- the registry


def _pinned(application: Application, project: Project) -> str:
    """An override by which every image is the one that its name means today."""
    services = {}
    for name, service in project.services.items():
        image = service.get("image", "")
        if image and "@" not in image:
            found = application.engine.get(f"/distribution/{image}/json")
            image = f"{_reference(image).full()}@{found['Descriptor']['digest']}"
        services[name] = {"image": image}
    return as_yaml({"services": services})


def _reference(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except InvalidParameter as error:
        raise ComposeError(str(error)) from None


def _store(application: Application, request: PublishRequest, layers: list[artifact.Layer]) -> None:
    reference = _reference(request.repository).or_latest()
    registry = Registry(reference, config_folder())
    for layer in layers:
        registry.put_blob(layer.data)
    tag = reference.tag or "latest"
    manifest, kind = _put_manifest(registry, tag, layers, request.version)
    if request.images:
        images = [_copy(registry, one.get("image", "")) for one in application.project.services.values()]
        index = artifact.index_of(manifest, kind, images)
        registry.put_manifest(digest_of(index), artifact.INDEX, index)


def _put_manifest(registry: Registry, tag: str, layers: list[artifact.Layer], version: str) -> tuple[bytes, str]:
    """Store the manifest, as OCI 1.0 has it where a registry takes no 1.1 and no version was asked for."""
    for wanted in (version,) if version else ("1.1", "1.0"):
        manifest, config, kind = artifact.manifest_of(layers, wanted)
        registry.put_blob(config)
        try:
            registry.put_manifest(tag, artifact.MANIFEST, manifest)
        except RegistryError as error:
            if version or wanted == "1.0" or not 400 <= error.status < 500 or error.status in (401, 403, 407):
                raise
            continue
        return manifest, kind
    raise AssertionError


def _copy(registry: Registry, image: str) -> Tree:
    """Have an image in the project's repository, too; its descriptor. Raises ComposeError, RegistryError."""
    source = _reference(image).or_latest()
    there = Registry(source, config_folder())
    return _copy_manifest(registry, there, source.digest or source.tag or "latest")


def _copy_manifest(registry: Registry, source: Registry, name: str) -> Tree:
    found = source.manifest(name)
    document = found.json()
    if found.media_type in INDEXES:
        for one in document.get("manifests") or ():
            _copy_manifest(registry, source, str(one["digest"]))
    else:
        for one in (document.get("config") or {}, *(document.get("layers") or ())):
            digest = str(one.get("digest", ""))
            same = source.reference.domain == registry.reference.domain
            if not (same and registry.mount_blob(digest, source.reference)):
                registry.put_blob(source.blob(digest))
    registry.put_manifest(found.digest, found.media_type, found.data)
    return {"mediaType": found.media_type, "digest": found.digest, "size": len(found.data)}
