"""What an additional process of a container is to the runtime."""

import os
from collections.abc import Sequence

from dockyard.engine import spec as specs
from dockyard.engine.container import Container
from dockyard.engine.security import granted_capabilities
from dockyard.engine.users import find_user
from dockyard.oci.runtime_spec import Process
from dockyard.runtime import defaults


def exec_process(
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
    that. Raises InvalidParameter for a user that is not there.
    """
    config, host = container.config, container.host_config
    assert container.shim is not None
    # the root as the container itself sees it now, with what is mounted in it
    account, home = find_user(
        os.path.join("/proc", str(container.shim.pid), "root"), user or config.user, host.group_add or []
    )
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
