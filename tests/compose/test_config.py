"""What files come to: merged, extended, included, completed, written; and what is refused, in which words.

What is expected here is what Docker Compose 2.40.3 writes.
"""

import textwrap

import pytest

from tests.compose.conftest import ComposeFolder


def text(given: str) -> str:
    return textwrap.dedent(given).lstrip("\n")


def test_short_forms_are_written_out(files: ComposeFolder) -> None:
    files.write(
        """
        services:
          web:
            image: nginx:${TAG:-alpine}
            ports: ["8080:80", "127.0.0.1:9000-9001:90-91/udp", 53]
            depends_on: [db]
            environment: [A=1, "B", {C: d}]
        """.replace('"B", {C: d}', '"B"')
        + """
            volumes: ["data:/var/lib/x/:ro", "./src:/src"]
            deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 50M}}}
            healthcheck: {test: curl -f localhost, interval: 1m30s}
            command: sh -c "echo hi; sleep 3"
          db: {image: mariadb, networks: {back: {aliases: [x]}}}
        volumes: {data: }
        networks: {back: {ipam: {config: [{subnet: 10.1.0.0/24}]}}}
        x-foo: {a: [1, {b: c}]}
        """
    )
    folder = files.folder
    assert files("config") == text(
        f"""
        name: shop
        services:
          db:
            image: mariadb
            networks:
              back:
                aliases:
                  - x
          web:
            command:
              - sh
              - -c
              - echo hi; sleep 3
            depends_on:
              db:
                condition: service_started
                required: true
            deploy:
              replicas: 2
              resources:
                limits:
                  cpus: 0.5
                  memory: "52428800"
            environment:
              A: "1"
              B: null
            healthcheck:
              test:
                - CMD-SHELL
                - curl -f localhost
              interval: 1m30s
            image: nginx:alpine
            networks:
              default: null
            ports:
              - mode: ingress
                target: 80
                published: "8080"
                protocol: tcp
              - mode: ingress
                host_ip: 127.0.0.1
                target: 90
                published: "9000"
                protocol: udp
              - mode: ingress
                host_ip: 127.0.0.1
                target: 91
                published: "9001"
                protocol: udp
              - mode: ingress
                target: 53
                protocol: tcp
            volumes:
              - type: volume
                source: data
                target: /var/lib/x
                read_only: true
                volume: {{}}
              - type: bind
                source: {folder}/src
                target: /src
                bind:
                  create_host_path: true
        networks:
          back:
            name: shop_back
            ipam:
              config:
                - subnet: 10.1.0.0/24
          default:
            name: shop_default
        volumes:
          data:
            name: shop_data
        x-foo:
          a:
            - 1
            - b: c
        """
    )


def test_a_services_hash_is_that_of_docker_compose(files: ComposeFolder) -> None:
    files.write(
        """
        services:
          db: {image: mariadb, networks: {back: {aliases: [x]}}}
          web:
            image: nginx:alpine
            ports: ["8080:80"]
            environment: {A: "<&>", B: 1.5}
            cpu_percent: 50
            mem_swappiness: 0
            deploy: {replicas: 2, resources: {limits: {cpus: "0.1", memory: 1g, pids: 5}}}
            ulimits: {nofile: 1024, nproc: {soft: 1, hard: 2}}
            healthcheck: {test: [NONE], interval: 90s}
        networks: {back: }
        """
    )
    # of `docker compose config --hash '*'`
    assert files("config", "--hash", "*").split() == HASHES


HASHES = [
    "db",
    "f56027895fa271d575145c2b37a1200a695d18ce6127f77fd4137fa0ca58fcc5",
    "web",
    "5901bd6d8a468eb579c6103d32b3345dd2c358308dfc7b8074ffb21b41c6d3ef",
]


def test_a_later_file_is_laid_over_an_earlier_one(files: ComposeFolder) -> None:
    files.write(
        """
        services:
          web:
            image: one
            command: a b
            environment: [A=1, B=2]
            ports: ["80:80", "81:81"]
            dns: 1.1.1.1
            volumes: ["one:/x", "two:/y"]
            labels: {keep: "1"}
        volumes: {one: , two: , three: }
        """
    )
    files.write(
        """
        services:
          web:
            image: two
            command: [c]
            environment: {B: 3, C: 4}
            ports: !override ["90:90"]
            dns: [8.8.8.8]
            volumes: ["three:/x"]
            labels: !reset null
        """,
        "over.yaml",
    )
    found = files("config", "-q") or files("-f", "compose.yaml", "-f", "over.yaml", "config")
    web = found.partition("  web:\n")[2].partition("networks:\n  default")[0]
    assert "image: two" in web
    assert "command:\n      - c\n" in web
    assert 'environment:\n      A: "1"\n      B: "3"\n      C: "4"\n' in web
    assert 'published: "90"' in web
    assert 'published: "80"' not in web
    assert "- 1.1.1.1\n      - 8.8.8.8" in web
    assert "source: three\n        target: /x" in web
    assert "source: two\n        target: /y" in web
    assert "keep" not in web


def test_extends_and_include_take_over_what_other_files_say_from_where_they_are(files: ComposeFolder) -> None:
    files.write("services: {base: {image: busybox, volumes: ['./d:/d'], environment: {A: 1}}}", "sub/base.yaml")
    files.write("services: {extra: {image: 'x:${V}', env_file: own.env}}\n", "other/compose.yaml")
    files.write("V=7\n", "other/.env")
    files.write("OWN=1\n", "other/own.env")
    files.write(
        """
        include: [other/compose.yaml]
        services:
          web:
            extends: {file: sub/base.yaml, service: base}
            environment: {B: 2}
        """
    )
    found = files("config")
    assert f"source: {files.folder}/sub/d" in found
    assert 'environment:\n      A: "1"\n      B: "2"' in found
    assert "image: x:7" in found
    assert 'OWN: "1"' in found


def test_profiles_choose_services(files: ComposeFolder) -> None:
    files.write(
        """
        services:
          always: {image: a}
          debug: {image: b, profiles: [debug], depends_on: [always]}
          other: {image: c, profiles: [test]}
        """
    )
    assert files("config", "--services").split() == ["always"]
    assert files("--profile", "debug", "config", "--services").split() == ["always", "debug"]
    assert set(files("config", "--services", COMPOSE_PROFILES="debug,test").split()) == {"always", "debug", "other"}
    assert set(files("--profile", "*", "config", "--services").split()) == {"always", "debug", "other"}
    assert "image: b" in files("config", "debug")


def test_anchors_merge_keys_and_old_scalars_mean_what_go_yaml_takes_them_for(files: ComposeFolder) -> None:
    files.write(
        """
        x-base: &base {image: busybox, environment: &env {A: yes, B: 0o17, C: 0777, D: 1_000, E: 1e3, F: 12:30}}
        services:
          web:
            <<: *base
            environment: {<<: *env, G: null, H: "true", I: ~}
            tty: "yes"
        """
    )
    found = files("config")
    assert 'A: "yes"\n      B: "15"\n      C: "511"\n      D: "1000"\n      E: "1000"\n      F: "12:30"' in found
    assert 'G: null\n      H: "true"\n      I: null' in found
    assert "tty: true" in found


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("services: {web: {imge: x}}", "validating {file}: services.web additional properties 'imge' not allowed"),
        ("services: {web: {image: x, ports: 80}}", "validating {file}: services.web.ports must be a array"),
        (
            "services: {web: {image: x, ports: [{target: 80, foo: 1}]}}",
            "validating {file}: services.web.ports.0 additional properties 'foo' not allowed",
        ),
        (
            "services: {web: {}}",
            'service "web" has neither an image nor a build context specified: invalid compose project',
        ),
        (
            "services: {web: {image: x, depends_on: [db]}}",
            'service "web" depends on undefined service "db": invalid compose project',
        ),
        (
            "services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}",
            "dependency cycle detected: a -> b -> a",
        ),
        (
            "services: {web: {image: x, volumes: ['data:/x']}}",
            'service "web" refers to undefined volume data: invalid compose project',
        ),
        (
            "services: {web: {image: '${NONE:?say it}'}}",
            "error while interpolating services.web.image: required variable NONE is missing a value: say it",
        ),
        (
            "services: {web: {image: 'a${'}}",
            "invalid interpolation format for services.web.image.\nYou may need to escape any $ with another $.\na${",
        ),
        (
            "services: {web: {image: x, privileged: maybe}}",
            (
                "error while interpolating services.web.privileged: failed to cast to expected type: "
                "invalid boolean: maybe"
            ),
        ),
        ("services: [", "failed to parse {file}: yaml: line 1: did not find expected node content"),
        (
            "services: {web: {image: x, image: y}}",
            'failed to parse {file}: line 1: mapping key "image" already defined at line 1',
        ),
        ("a: &a [*a]", "failed to parse {file}: yaml: anchor 'a' value contains itself"),
        ("[]", "top-level object must be a mapping"),
        ("", "empty compose file"),
        (
            "services: {web: {image: x, env_file: none.env}}",
            "env file {folder}/none.env not found: stat {folder}/none.env: no such file or directory",
        ),
    ],
)
def test_what_is_wrong_is_said_in_composes_words(files: ComposeFolder, content: str, wrong: str) -> None:
    place = files.write(content)
    said = files.error("config")
    assert said == wrong.replace("{file}", str(place)).replace("{folder}", str(files.folder))


def test_a_bomb_of_aliases_is_refused(files: ComposeFolder) -> None:
    levels = "".join(f"x-{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 9))
    files.write(f"x-0: &l0 [a]\n{levels}services: {{web: {{image: x}}}}\n")
    assert "document contains excessive aliasing" in files.error("config")


def test_a_deep_document_is_refused(files: ComposeFolder) -> None:
    files.write("[" * 100_000)
    assert "yaml:" in files.error("config")


def test_names_are_found_where_compose_finds_them(files: ComposeFolder) -> None:
    files.write("name: in-${WHERE:-file}\nservices: {web: {image: x}}")
    first = lambda *arguments, **environment: files(*arguments, "config", **environment).partition("\n")[0]  # noqa: E731
    assert first() == "name: in-file"
    assert first(WHERE="variable") == "name: in-variable"
    assert first(COMPOSE_PROJECT_NAME="env") == "name: env"
    assert first("-p", "given", COMPOSE_PROJECT_NAME="env") == "name: given"
    assert "invalid project name" in files.error("-p", "Not This", "config")


def test_the_project_is_found_from_a_folder_below(files: ComposeFolder) -> None:
    files.write("services: {web: {image: x}}")
    below = files.folder / "a" / "b"
    below.mkdir(parents=True)
    files.folder = below
    assert files("config", "--services") == "web\n"
