"""What instructions that touch no file do to a configuration: in a build, and as `--change` of commit and import."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address

from dockyard.dockerfile import instructions
from dockyard.dockerfile import parser as dockerfile
from dockyard.dockerfile.instructions import Command, HealthCheck, Instruction, Pairs, Text, Words
from dockyard.dockerfile.substitution import BadSubstitution, expand_words, expansion
from dockyard.errors import InvalidParameter
from dockyard.oci.image_config import ContainerConfig, Healthcheck
from dockyard.signals import parse_signal
from dockyard.timestamps import duration_text

_PLAIN = re.compile(r"[A-Za-z0-9_./:=,*?+-]*")
DEFAULT_SHELL = ("/bin/sh", "-c")
# moby daemon/builder/dockerfile, validCommitCommands
CHANGES = frozenset("CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR".split())


class Configuring:
    """Applies instructions to `config`, one after the other."""

    def __init__(
        self, config: ContainerConfig, environment: Callable[[], Mapping[str, str]], escape: str = "\\"
    ) -> None:
        """`environment` tells what variables stand for at the moment."""
        self.config = config
        self._environment = environment
        self._escape = escape
        self._command_set = False
        self.unknown: list[str] = []  # variables that were used and stand for nothing

    def expand(self, word: str) -> str:
        """The word with variables replaced. Raises InvalidParameter."""
        if _PLAIN.fullmatch(word):  # as most are
            return word
        try:
            found = expansion(word, self._environment(), self._escape)
        except BadSubstitution as error:
            self.unknown += error.unknown
            raise
        self.unknown += found.unknown
        return found.text

    def expand_words(self, words: Iterable[str]) -> list[str]:
        """Words with variables replaced, whose blanks part words. Raises InvalidParameter."""
        return [part for word in words for part in expand_words(word, self._environment(), self._escape)]

    def apply(self, step: Instruction) -> str:
        """Do it; what a history says of it. Raises InvalidParameter."""
        match step:
            case Pairs():
                return self._pairs(step)
            case Words():
                return self._words(step)
            case HealthCheck():
                self.config.healthcheck = step.check
                return "HEALTHCHECK " + _health_check_text(step.check)
            case Command():
                return self._command(step)
            case Text():
                return self._text(step)
        raise InvalidParameter(f"{step.code} does more than configure")

    def shell(self) -> list[str]:
        """What the shell form of a command is given to."""
        return list(self.config.shell or DEFAULT_SHELL)

    def _pairs(self, step: Pairs) -> str:
        pairs = [
            (name, value) if step.literal else (self.expand(name), self.expand(value)) for name, value in step.pairs
        ]
        if step.word == "LABEL":
            self.config.labels = {**(self.config.labels or {}), **dict(pairs)}
        else:
            env = list(self.config.env or ())
            for name, value in pairs:
                places = [place for place, item in enumerate(env) if item.partition("=")[0] == name]
                if places:
                    env[places[0]] = f"{name}={value}"
                else:
                    env.append(f"{name}={value}")
            self.config.env = env
        return f"{step.word} " + " ".join(f"{name}={value}" for name, value in pairs)

    def _words(self, step: Words) -> str:
        config = self.config
        if step.word == "SHELL":
            config.shell = list(step.values)
            return f"SHELL [{' '.join(step.values)}]"
        if step.word == "EXPOSE":
            words = self.expand_words(sorted(step.values))
            config.exposed_ports = {**(config.exposed_ports or {}), **{port: {} for port in ports_of(words)}}
            return "EXPOSE " + " ".join(sorted(words))
        places = [self.expand(value).strip() for value in step.values]
        if "" in places:
            raise InvalidParameter("VOLUME specified can not be an empty string")
        config.volumes = {**(config.volumes or {}), **{place: {} for place in places}}
        return f"VOLUME [{' '.join(places)}]"

    def _command(self, step: Command) -> str:
        words = [*self.shell(), *step.words] if step.shell else list(step.words)
        if step.word == "CMD":
            self.config.cmd = words
            self._command_set = bool(words)
        else:
            self.config.entrypoint = words
            if not self._command_set:
                self.config.cmd = None
        return f"{step.word} {_quoted(words)}"

    def _text(self, step: Text) -> str:
        config = self.config
        if step.word == "ONBUILD":
            config.on_build = [*(config.on_build or ()), step.text]
            return f"ONBUILD {step.text}"
        text = self.expand(step.text)
        match step.word:
            case "WORKDIR":
                config.working_dir = moved(config.working_dir, text)
                text = config.working_dir
            case "USER":
                config.user = text
            case "STOPSIGNAL":
                parse_signal(text)
                config.stop_signal = text
        return f"{step.word} {text}"


def moved(folder: str, path: str) -> str:
    """WORKDIR's new folder: an absolute path as it is written (moby and BuildKit, "NormalizeWorkdir").

    But one with `..` in it is made short: the steps that run there would make directories that nobody means.
    """
    return path if path.startswith("/") and ".." not in path.split("/") else cleaned(folder, path)


def cleaned(folder: str, path: str) -> str:
    """`path` seen from `folder`, absolute, as short as it can be written, whatever is there."""
    return "/" + posixpath.normpath(posixpath.join("/", folder, path)).lstrip("/")


def changed(config: ContainerConfig, changes: Iterable[str]) -> ContainerConfig:
    """`config` with Dockerfile instructions applied, which may be several lines each.

    Raises InvalidParameter for an instruction that does more than configure, or is malformed.
    """
    text = "\n".join(changes)
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        raise InvalidParameter("file with no instructions")
    file = dockerfile.parse(text)
    for node in file.nodes:
        if node.word not in CHANGES:
            raise InvalidParameter(f"{node.original.split(None, 1)[0]} is not a valid change command")
    steps = [instructions.meaning(node) for node in file.nodes]
    work = Configuring(config, lambda: dict(item.partition("=")[::2] for item in config.env or ()), file.escape)
    for step in steps:
        work.apply(step)
    return work.config


def _quoted(words: Sequence[str]) -> str:
    """A list as Go's %q prints it."""
    return "[" + " ".join(json.dumps(word, ensure_ascii=False) for word in words) + "]"


def _health_check_text(check: Healthcheck) -> str:
    """The check as Go's %v prints it."""
    times = (check.interval, check.timeout, check.start_period, check.start_interval)
    return f"&{{[{' '.join(check.test)}] {' '.join(duration_text(time) for time in times)} {check.retries}}}"


def ports_of(words: Iterable[str]) -> list[str]:
    """`80`, `80/udp`, `8000-8010/tcp`, `host:container` as port/protocol, ranges one by one.

    Raises InvalidParameter.
    """
    ports = []
    for word in words:
        around, _, inside = word.rpartition(":")
        text, _, protocol = inside.partition("/")
        protocol = protocol.lower() or "tcp"
        if protocol not in ("tcp", "udp", "sctp"):
            raise InvalidParameter(f"invalid proto: {protocol}")
        if not text:
            raise InvalidParameter(f"no port specified: {word}<empty>")
        numbers = _range(text)
        if numbers is None:
            raise InvalidParameter(f"invalid containerPort: {text}")
        _check_around(around, numbers)
        ports += [f"{port}/{protocol}" for port in numbers]
    return ports


def _check_around(text: str, inside: range) -> None:
    """Look at the address and the ports of the host, which mean nothing in an image. Raises InvalidParameter."""
    address, _, host = text.rpartition(":")
    plain = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        if plain:
            ip_address(plain)
    except ValueError:
        raise InvalidParameter(f"invalid IP address: {address}") from None
    outside = _range(host) if host else inside
    if outside is None:
        raise InvalidParameter(f"invalid hostPort: {host}")
    if len(outside) != len(inside) != 1:
        ranges = f"{inside.start}-{inside.stop - 1} and {host}"
        raise InvalidParameter(f"invalid ranges specified for container and host Ports: {ranges}")


def _range(text: str) -> range | None:
    """`80` or `80-90`; None for anything else."""
    first, _, last = text.partition("-")
    last = last if "-" in text else first
    if not re.fullmatch(r"[0-9]+ [0-9]+", f"{first} {last}") or not int(first) <= int(last) < 65536:
        return None
    return range(int(first), int(last) + 1)
