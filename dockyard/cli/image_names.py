"""What stands for an image on the command line: its name, and the platforms to choose from."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.cli.usage import Flags


def full_name(image: str) -> str:
    """`busybox` as docker.io/library/busybox:latest."""
    name = image
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    return name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"


def split(image: str) -> tuple[str, str]:
    """Name, and tag or digest or "" of an image."""
    if "@" in image:
        name, _, digest = image.partition("@")
        return name, digest
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "")


def image_problem(image: str) -> bool:
    """Whether a name can be no image's: the engine will say why."""
    first, slash, rest = split(image)[0].partition("/")
    path = rest if slash and ("." in first or ":" in first or first == "localhost") else split(image)[0]
    return not path or path != path.lower()


def platforms(flags: Flags) -> list[str]:
    """`--platform os/arch[/variant]` of images as the API wants them: a JSON object each."""
    import json

    found = []
    for text in ",".join(flags.all("platform")).split(","):
        system, _, rest = text.partition("/")
        architecture, _, variant = rest.partition("/")
        platform = {"os": system, "architecture": architecture, "variant": variant}
        if text:
            found.append(json.dumps({key: value for key, value in platform.items() if value}))
    return found
