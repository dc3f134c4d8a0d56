"""What an additional process of a container is to the runtime."""

import asyncio
import os
import threading
from collections.abc import Sequence
from contextlib import suppress

from dockyard.engine.containers.container import Container
from dockyard.engine.containers.spec import runtime_spec as specs
from dockyard.engine.containers.spec.security import granted_capabilities
from dockyard.engine.containers.spec.users import find_user
from dockyard.errors import Conflict, Unavailable
from dockyard.oci.runtime_spec import Process, User
from dockyard.runtime.spec import defaults

PATIENCE = 10.0  # with the container's /etc/passwd, s


async def exec_process(
    container: Container,
    command: Sequence[str],
    *,
    tty: bool = False,
    env: Sequence[str] = (),
    user: str = "",
    working_dir: str = "",
    privileged: bool = False,
    link_variables: Sequence[str] = (),
) -> Process:
    """The OCI process of `command` in a running container, as its user unless `user` names another.

    What it does not say, as no_new_privs and labels, it has as the container was started with, for the runtime gives it
    that. Raises InvalidParameter for a user that is not there, Conflict when the container has ended, Unavailable when
    its files do not answer.
    """
    config, host = container.config, container.host_config
    if container.shim is None:
        raise Conflict(f"container {container.id} is not running")
    # the root as the container itself sees it now, with what is mounted in it
    root = os.path.join("/proc", str(container.shim.pid), "root")
    account, home = await _account(container, root, user or config.user, host.group_add or [])
    granted = granted_capabilities(host.cap_add, host.cap_drop, host.privileged or privileged)
    return Process(
        terminal=tty,
        user=account,
        args=list(command),
        env=specs.environment(
            [*link_variables, *(config.env or []), *env], tty=tty, hostname=config.hostname, home=home
        ),
        cwd=working_dir or config.working_dir or "/",
        capabilities=defaults.capability_sets(granted),
        oom_score_adj=host.oom_score_adj,
    )


async def _account(container: Container, root: str, user: str, groups: list[str]) -> tuple[User, str]:
    """As `find_user`, in a thread of its own: the files are the container's, and may lie where reading never ends."""
    refusal = Unavailable(f"the files of container {container.id} do not answer: no user can be looked up")
    if container.stuck is not None and not container.stuck.done():
        raise refusal
    loop = asyncio.get_running_loop()
    found: asyncio.Future[tuple[User, str]] = loop.create_future()

    def tell(result: tuple[User, str] | None, failure: Exception | None) -> None:
        if failure is not None:
            found.set_exception(failure)
        elif result is not None:
            found.set_result(result)

    def look() -> None:
        result = failure = None
        try:
            result = find_user(root, user, groups)
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the daemon has gone meanwhile
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=look, name="user-lookup", daemon=True).start()
    if not (await asyncio.wait({found}, timeout=PATIENCE))[0]:
        container.stuck = found
        found.add_done_callback(lambda late: late.exception())
        raise refusal
    return found.result()
