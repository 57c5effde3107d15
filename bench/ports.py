"""Published ports beside Docker's: the same nginx in a container of each, asked from the host.

All of it is in a network namespace of its own, so that neither engine's rules meet the host's or
one another engine's.
"""

import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

import peers
from table import Row

SECONDS = 4
CONNECTIONS = 32
# An address of the host, as one that clients elsewhere would use.
HOST = "192.0.2.1"
PORTS = {"invar": 8081, "docker": 8082}
BODIES = {"small answers": "", "1 MB answers": "megabyte"}
CONFIG = """
user root; daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr;
events { worker_connections 1024; }
http {
    access_log off; keepalive_requests 100000000; keepalive_timeout 600s; sendfile on; tcp_nodelay on;
    client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
    server {
        listen 80 backlog=4096; root /www;
        location = / { default_type text/plain; return 200 "hello from a container\\n"; }
    }
}
"""


class Apart:
    """A host of its own, as far as networks go."""

    def __init__(self, bench):
        holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        bench.stack.callback(holder.wait)
        bench.stack.callback(holder.terminate)
        own = pathlib.Path("/proc/self/ns/net").readlink()
        deadline = time.monotonic() + 10
        while pathlib.Path(f"/proc/{holder.pid}/ns/net").readlink() == own:
            if time.monotonic() > deadline:
                sys.exit("bench: no network namespace could be made")
            time.sleep(0.01)
        self.prefix = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        for words in ("link set lo up", "link add host type bridge", f"address add {HOST}/24 dev host",
                      "link set host up"):
            peers.checked(self.command("ip", *words.split()))

    def command(self, *words) -> list:
        return [*self.prefix, *words]


def nginx_rootfs(bench) -> pathlib.Path:
    """A tar of the host's nginx with its libraries and what it serves."""
    tree = bench.directory / "nginx"
    for part in ("etc", "tmp", "www", "var/log/nginx", "var/lib/nginx"):
        (tree / part).mkdir(parents=True)
    program = shutil.which("nginx") or sys.exit("bench: nginx is missing: install nginx-light")
    libraries = re.findall(r"(/\S+) \(0x", peers.checked(["ldd", program]))
    for file in (program, *libraries):
        target = tree / file.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n", encoding="utf-8")
    (tree / "etc/group").write_text("root:x:0:\n", encoding="utf-8")
    (tree / "etc/nginx.conf").write_text(CONFIG, encoding="utf-8")
    (tree / "www/megabyte").write_bytes(b"x" * 1_000_000)
    tar = bench.directory / "nginx.tar"
    peers.checked(["tar", "-C", tree, "--numeric-owner", "--owner=0", "--group=0", "-cf", tar, "."])
    return tar


def serve(bench, apart: Apart) -> None:
    """A container of each engine, its port published on every address of the host."""
    tar = bench.once(nginx_rootfs)
    engines = {
        "invar": peers.Invar(bench, bench.directory / "invar-ports", apart.prefix),
        "docker": peers.Docker(bench, bench.directory / "docker-ports", apart.prefix,
                               ["--bip=172.31.250.1/24", "--ipv6=false"]),
    }
    program = [shutil.which("nginx"), "-c", "/etc/nginx.conf"]
    engines["invar"].run("import", "nginx", tar)
    engines["docker"].run("import", tar, "nginx")
    for name, engine in engines.items():
        engine.run("run", "-d", "-p", f"{PORTS[name]}:80", "nginx", *program)
        wait_for_answer(apart, f"http://{HOST}:{PORTS[name]}/")


def wait_for_answer(apart: Apart, url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        ask = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2).read()"
        asked = subprocess.run(apart.command(sys.executable, "-c", ask, url), capture_output=True)
        if asked.returncode == 0:
            return
        if time.monotonic() > deadline:
            sys.exit(f"bench: nothing answers at {url}: {asked.stderr.decode()}")
        time.sleep(0.1)


def load(apart: Apart, url: str) -> float:
    """Seconds for a request, of many at once."""
    output = peers.checked(apart.command("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", url))
    if "Socket errors" in output or "Non-2xx" in output:
        sys.exit(f"bench: the load failed:\n{output}")
    return 1 / float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])


def ports(bench, rounds: int) -> list:
    """Requests through a published port, from an address of the host and from its loopback."""
    apart = bench.once(Apart)
    serve(bench, apart)
    rows = []
    for label, path in BODIES.items():
        # Clients of other machines come as those of the first address do; loopback is the host's own convenience.
        for where, address, most in (("", HOST, 1 / 0.95), (" over loopback", "127.0.0.1", None)):
            taken = {name: [] for name in PORTS}
            for turn in range(rounds + 1):
                for name, port in PORTS.items():
                    value = load(apart, f"http://{address}:{port}/{path}")
                    if turn > 0:
                        taken[name].append(value)
            m = {name: statistics.median(values) for name, values in taken.items()}
            rows.append(Row(f"published port{where}: time of {label}", m["invar"], "docker", m["docker"], most=most))
    return rows
