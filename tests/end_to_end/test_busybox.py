"""The embedded busybox image, which tests, examples and health checks use: its programs work."""

import subprocess

import pytest

from dockyard.content import embedded
from tests.engine_process import EngineProcess

# What a program is asked, and what it must say.
APPLETS = {
    "ash -c 'echo $((6 * 7))'": "42",
    "awk 'BEGIN { print 6 * 7 }'": "42",
    "basename /a/b.txt .txt": "b",
    "echo aGVsbG8= | base64 -d": "hello",
    "echo '6 * 7' | bc": "42",
    "printf 'a\\nb\\n' | cat -n | wc -l": "2",
    "echo x > /tmp/x && cp /tmp/x /tmp/y && cmp /tmp/x /tmp/y && echo same": "same",
    "chmod 640 /tmp/x && stat -c %a /tmp/x": "640",
    "echo a:b | cut -d : -f 2": "b",
    "date -u -d @0 +%Y": "1970",
    "dd if=/dev/zero bs=1k count=3 2> /dev/null | wc -c": "3072",
    "df -P / | wc -l": "2",
    "diff /tmp/x /tmp/y && echo same": "same",
    "dirname /a/b": "/a",
    "du -s /tmp > /dev/null && echo done": "done",
    "env -i A=b env": "A=b",
    "expr 6 '*' 7": "42",
    "find /tmp -name x": "/tmp/x",
    "echo hello | gzip | gunzip": "hello",
    "echo hello | bzip2 | bunzip2": "hello",
    "head -c 4 /etc/passwd": "root",
    "hostname": "box",
    "id -u": "0",
    "sleep 60 & kill $! && echo done": "done",
    "ln -s x /tmp/z && readlink /tmp/z": "x",
    "ls -d /etc": "/etc",
    "echo hello | md5sum | cut -c 1-8": "b1946ac9",
    "mkdir -p /tmp/d/e && rmdir /tmp/d/e && ls /tmp/d | wc -l": "0",
    "mktemp -u /tmp/m.XXXXXX | wc -c": "14",
    "ps | grep -c '^ *1 '": "1",
    "ping -c 1 -w 5 127.0.0.1 > /dev/null && echo done": "done",
    "echo a | sed s/a/b/": "b",
    "seq 3 | tail -n 1": "3",
    "echo hello | sha256sum | cut -c 1-8": "5891b5b5",
    "printf 'b\\na\\n' | sort | head -n 1": "a",
    "tar -C /etc -c passwd | tar -t": "passwd",
    "(timeout 1 sleep 60; true) 2> /dev/null; echo over": "over",
    "echo ab | tr ab cd": "cd",
    "printf 'a\\na\\n' | uniq": "a",
    "echo a b | xargs -n 1 echo | wc -l": "2",
    "echo hi | nc -l -p 81 & sleep 1; nc 127.0.0.1 81 < /dev/null": "hi",
    "nslookup nowhere.invalid 127.0.0.1 > /dev/null 2>&1; echo $?": "1",
    "wget -q -O - http://127.0.0.1/page": "page",
    "wget -T 5 -q -O - http://127.0.0.1/page": "page",
    "wget -T 1 -q -O - http://127.0.0.1:2/ 2> /dev/null; echo $?": "1",
}


def _crashes_on_time_limits() -> bool:
    """Whether only Debian 12's busybox is here: `packaging/newer-busybox` could fetch no other."""
    image = embedded.busybox()
    if image is None:
        return False
    done = subprocess.run([image, "wget", "-T", "1", "http://127.0.0.1:1/"], capture_output=True, check=False)
    return done.returncode < 0


@pytest.mark.skipif(_crashes_on_time_limits(), reason="there is only a busybox that crashes on wget -T")
def test_forty_programs_of_busybox_work(engine: EngineProcess) -> None:
    assert len(APPLETS) > 40
    script = ["mkdir /www && echo page > /www/page && httpd -h /www"]
    script += [f"echo \"$({{ {command}; }} 2>&1 | tr '\\n' ' ')\"" for command in APPLETS]
    said = engine.docker("run", "--rm", "-i", "--hostname=box", "busybox", "sh", input="\n".join(script).encode())
    got = [line.strip() for line in said.splitlines()]
    assert dict(zip(APPLETS, got, strict=True)) == APPLETS
