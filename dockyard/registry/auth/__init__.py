"""Who asks, and whether they may: nobody is asked, passwords in a file, or tokens that another server signs."""

from dockyard.errors import InvalidParameter
from dockyard.registry.auth.model import Actor, Authenticator, Everyone
from dockyard.registry.settings import Auth

__all__ = ["Actor", "Authenticator", "Everyone", "authenticator"]


def authenticator(settings: Auth) -> Authenticator:
    """What the settings ask for. Raises InvalidParameter."""
    if settings.htpasswd is not None and settings.token is not None:
        raise InvalidParameter("configuration: auth is either htpasswd or token")
    if settings.htpasswd is not None:
        from dockyard.registry.auth.htpasswd import Htpasswd

        return Htpasswd(settings.htpasswd)
    if settings.token is not None:
        from dockyard.registry.auth.token import Tokens

        return Tokens(settings.token)
    return Everyone()
