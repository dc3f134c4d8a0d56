"""Names for containers that nobody named: an adjective and a ship."""

import random
import re
from collections.abc import Container

from dockyard.errors import InvalidParameter

ADJECTIVES = """
    able agile amber ample apt azure bold brave breezy bright brisk calm candid clear clever cosy crisp daring
    deft eager early easy fair fast fine firm fleet fond free fresh gentle glad golden grand great happy hardy
    honest humble ideal jolly keen kind lively loyal lucid lucky mellow merry mighty modest neat nimble noble
    patient placid plucky polite proud quick quiet rapid ready robust rosy sane serene sharp silent silver sleek
    smart smooth snug solid sound spry stable steady stout strong subtle sunny sure swift tidy tranquil true
    trusty upbeat valiant vivid warm wise witty
""".split()
SHIPS = """
    argo beagle belfast bluenose bounty calypso challenger clermont constitution cutty discovery dreadnought
    endeavour endurance enterprise erebus essex fram galilee gjoa godspeed golden great_eastern half_moon hermione
    hood investigator jeannette kalmar karteria lady_washington mary_rose mayflower missouri monitor nautilus nina
    nimrod peking pinta pourquoi quest rainbow resolute resolution santa_maria savannah sirius spray terra_nova
    thermopylae titanic trieste tally_ho turbinia utopia vasa victoria victory warrior wyoming yamato zebulon
""".split()
VALID = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def check_name(name: str) -> str:
    """`name` without its leading slash. Raises InvalidParameter in Docker's words."""
    if VALID.fullmatch(name) is None:
        raise InvalidParameter(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name.removeprefix("/")


def choose_name(taken: Container[str]) -> str:
    """A name that is not `taken`."""
    while True:
        name = f"{random.choice(ADJECTIVES)}_{random.choice(SHIPS)}"
        if name not in taken:
            return name
        name += str(random.randrange(10_000))
        if name not in taken:
            return name
