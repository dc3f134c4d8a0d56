"""POST /commit."""

from dockyard import web
from dockyard.api.images import tagged_reference
from dockyard.api.router import Call, Route, json_response
from dockyard.api.services import Services
from dockyard.oci.image_config import ContainerConfig


def routes(services: Services) -> list[Route]:
    """The operation that makes an image of a container."""

    async def commit(call: Call) -> web.StreamResponse:
        config = await call.body(ContainerConfig) if call.http.has_body else None
        image = await services.commit.commit(
            call.text("container"),
            name=tagged_reference(call.text("repo"), call.text("tag")),
            changes=call.texts("changes"),
            config=config,
            author=call.text("author"),
            comment=call.text("comment"),
            pause=call.flag("pause", True),
        )
        return json_response({"Id": image.id}, 201)

    return [Route("POST", "/commit", commit)]
