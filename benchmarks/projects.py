"""Seven projects as people build them: sources in C, Python, JavaScript and Go, users and packages, a site, services.

Each is written below a folder of its own and built on `bench-tools`, a Debian with compilers and interpreters.
Nothing is taken from a network while a build runs. `number` is in the first step after FROM: with a new one nothing
is cached.
"""

import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

Project = Callable[[Path, int], None]

PACKAGES = "gcc,libc6-dev,make,python3,python3-pip,python3-venv,nodejs,golang-go,ca-certificates"
MODULES = 12
PAGES = 1000


def tools(cached: Path) -> Path:
    """The file system of `bench-tools` as an archive, made once by mmdebstrap."""
    archive = cached / "tools.tar"
    if not archive.exists():
        cached.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(".part.tar")
        options = ["--quiet", "--variant=minbase", f"--include={PACKAGES}"]
        subprocess.run(["mmdebstrap", *options, "bookworm", str(part)], check=True)
        part.rename(archive)
    return archive


def wheels(cached: Path) -> Path:
    """What the Python project installs, fetched once."""
    folder = cached / "wheels"
    if not folder.exists():
        part = cached / "wheels.part"
        options = ["--quiet", "--only-binary=:all:", "--dest", str(part), "--python-version", "3.11"]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, "flask", "requests"], check=True)
        part.rename(folder)
    return folder


def all_of_them(cached: Path) -> dict[str, Project]:
    """Every project by its name."""

    def python(folder: Path, number: int) -> None:
        _python(folder, number, wheels(cached))

    return {
        "C, a RUN for each file": _c,
        "Python, pip's cache mounted": python,
        "Node": _node,
        "Go server, two stages": _go,
        "users, packages, symlinks": _system,
        "site of 1000 pages, --link": _site,
        "four services of one source": _services,
    }


def change(folder: Path, number: int) -> None:
    """Change the one source file of a project that is copied last."""
    with (folder / "changed").open("w") as file:
        file.write(f"{number}\n")


def _write(folder: Path, dockerfile: str, files: dict[str, str]) -> None:
    for name, text in {"Dockerfile": dockerfile, "changed": "0\n", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _c(folder: Path, number: int) -> None:
    modules = range(MODULES)
    steps = "".join(
        f"COPY src/m{one}.c src/\nRUN gcc -O2 -Iinclude -c src/m{one}.c -o obj/m{one}.o\n" for one in modules
    )
    dockerfile = f"""\
FROM bench-tools AS build
ENV BUILD={number}
WORKDIR /src
COPY include include
RUN mkdir obj
{steps}
COPY changed src/main.h
COPY main.c .
RUN gcc -O2 -Iinclude main.c obj/*.o -o /app
FROM bench
COPY --from=build /app /bin/app
USER 1000
ENTRYPOINT ["/bin/app"]
"""
    files = {"include/modules.h": "".join(f"int module_{one}(int);\n" for one in modules)}
    calls = " + ".join(f"module_{one}(count)" for one in modules)
    files["main.c"] = f"""\
#include <stdio.h>
#include "modules.h"
int main(int count, char **arguments) {{ printf("%d\\n", {calls}); return 0; }}
"""
    for one in modules:
        files[f"src/m{one}.c"] = f"""\
#include <stdio.h>
#include <stdlib.h>
#include "modules.h"
int module_{one}(int x) {{ for (int i = 0; i < {one}; i++) x += i ^ x; return x; }}
"""
    _write(folder, dockerfile, files)


def _python(folder: Path, number: int, found: Path) -> None:
    dockerfile = f"""\
FROM bench-tools
ENV BUILD={number} PATH=/venv/bin:$PATH
WORKDIR /app
RUN python3 -m venv /venv
COPY requirements.txt .
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=wheels,target=/wheels \
    pip install --no-index --find-links /wheels -r requirements.txt
COPY app app
COPY changed .
RUN python -m compileall -q app
EXPOSE 8000
HEALTHCHECK CMD python -c 'import app.m0'
CMD ["python", "-m", "app.m0"]
"""
    files = {f"app/m{module}.py": f"import flask\n\nNUMBER = {module}\n" for module in range(50)}
    _write(folder, dockerfile, {"requirements.txt": "flask\nrequests\n", "app/__init__.py": "", **files})
    target = folder / "wheels"
    target.mkdir(exist_ok=True)
    for wheel in found.iterdir():
        (target / wheel.name).write_bytes(wheel.read_bytes())


def _node(folder: Path, number: int) -> None:
    dockerfile = f"""\
FROM bench-tools AS deps
ENV BUILD={number}
WORKDIR /app
COPY package.json .
COPY node_modules node_modules
FROM deps AS build
COPY src src
COPY changed build.js ./
RUN node build.js
FROM bench-tools
WORKDIR /app
COPY --from=deps /app/node_modules node_modules
COPY --from=build /app/dist dist
ENV NODE_ENV=production
USER nobody
CMD ["node", "dist/bundle.js"]
"""
    build = """\
const fs = require('fs');
const all = fs.readdirSync('src').map(name => fs.readFileSync('src/' + name, 'utf8')).join('\\n');
new Function(all);
fs.mkdirSync('dist');
fs.writeFileSync('dist/bundle.js', all);
"""
    files = {f"src/s{one}.js": f"var v{one} = require('dep{one}');\n" for one in range(200)}
    for one in range(200):
        files[f"node_modules/dep{one}/index.js"] = f"module.exports = {one};\n"
        files[f"node_modules/dep{one}/package.json"] = f'{{"name": "dep{one}", "version": "1.0.{one}"}}\n'
    _write(folder, dockerfile, {"package.json": '{"name": "app"}\n', "build.js": build, **files})


def _go(folder: Path, number: int) -> None:
    dockerfile = f"""\
FROM bench-tools AS build
ENV BUILD={number} CGO_ENABLED=0
WORKDIR /src
COPY go.mod ./
COPY main.go changed ./
RUN --mount=type=cache,target=/root/.cache/go-build go build -o /server .
FROM scratch
COPY --from=build /server /server
EXPOSE 8080
ENTRYPOINT ["/server"]
"""
    main = """\
package main

import (
	_ "embed"
	"fmt"
	"net/http"
)

//go:embed changed
var version string

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, version) })
	http.ListenAndServe(":8080", nil)
}
"""
    _write(folder, dockerfile, {"go.mod": "module server\n\ngo 1.19\n", "main.go": main})


def _system(folder: Path, number: int) -> None:
    dockerfile = f"""\
FROM bench-tools
ARG BUILD={number}
LABEL build=$BUILD
ENV BUILD=$BUILD LANG=C.UTF-8
RUN groupadd -r app && useradd -r -g app -d /srv/app app
RUN mkdir -p /srv/app/data /srv/app/log && chown -R app:app /srv/app && ln -s /srv/app/log /var/log/app
RUN dpkg-query -W > /packages && rm -rf /var/lib/apt/lists/* /usr/share/doc/*
COPY --chown=app:app entrypoint.sh /usr/local/bin/
COPY changed /etc/app.conf
RUN ldconfig && sh -n /usr/local/bin/entrypoint.sh
VOLUME /srv/app/data
USER app
WORKDIR /srv/app
STOPSIGNAL SIGQUIT
ENTRYPOINT ["entrypoint.sh"]
"""
    _write(folder, dockerfile, {"entrypoint.sh": '#!/bin/sh\nexec "$@"\n'})


def _site(folder: Path, number: int) -> None:
    dockerfile = f"""\
FROM bench-tools AS packed
ENV BUILD={number}
COPY pages /pages
RUN gzip -k -r /pages
FROM bench
COPY --link --from=packed /pages /www
ADD --link assets.tar.gz /www/assets
COPY --link changed /www/version
"""
    _write(folder, dockerfile, {f"pages/p{one % 20}/{one}.html": f"<h1>{one}</h1>\n" * 40 for one in range(PAGES)})
    with tarfile.open(folder / "assets.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(folder / "pages" / "p0", "p0")


def _services(folder: Path, number: int) -> None:
    services = range(4)
    stages = "".join(
        f"FROM source AS s{one}\nRUN gcc -O2 -DSERVICE={one} main.c -o /s{one} && /s{one}\n" for one in services
    )
    copies = "".join(f"COPY --from=s{one} /s{one} /bin/\n" for one in services)
    dockerfile = f"""\
FROM bench-tools AS source
ENV BUILD={number}
WORKDIR /src
COPY main.c changed ./
{stages}
FROM bench
{copies}
"""
    main = '#include <stdio.h>\nint main(void) { printf("service %d\\n", SERVICE); return 0; }\n'
    _write(folder, dockerfile, {"main.c": main})
