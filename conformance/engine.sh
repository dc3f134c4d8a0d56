# Sourced by the scripts here: a fresh engine on docker's default socket, with a registry that mirrors Docker Hub for it.
# Sets: here, work, python. Stops and tidies up at exit.
here=$(cd "$(dirname "$0")/.." && pwd)
[ -S /var/run/docker.sock ] && { echo "something listens on /var/run/docker.sock already" >&2; exit 1; }
work=$(mktemp -d)
python="$here/.venv/bin/python"
registry=127.0.0.1:5000

cat >"$work/registry.yml" <<Y
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/registry}, delete: {enabled: true}}
http: {addr: '$registry'}
Y
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry_process=$!
"$python" -m dockyard.daemon --data-root="$work/data" --exec-root=/run/dyconf --pidfile="$work/pid" \
  --host=unix:///var/run/docker.sock --bridge=dyconf0 --bip=10.219.0.1/16 --cgroup-parent=dyconf \
  --registry-mirror="http://$registry" --insecure-registry=10.219.0.0/16 >"$work/daemon.log" 2>&1 &
daemon=$!

tidy() {
  export DOCKER_HOST=unix:///var/run/docker.sock
  docker ps -aq | xargs -r docker rm -f >/dev/null || true
  docker network prune -f >/dev/null || true
  kill "$daemon" && wait "$daemon" || true
  kill "$registry_process" || true
  ip link delete dyconf0 2>/dev/null || true
  rm -rf "$work" /run/dyconf
}
trap tidy EXIT
for _ in $(seq 100); do [ -S /var/run/docker.sock ] && break; sleep 0.1; done
"$here/conformance/images" unix:///var/run/docker.sock "$registry"
