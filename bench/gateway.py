"""The gateway beside haproxy: the same container, client and core for both, one after the other."""

import contextlib
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time

import peers
from table import Row

SECONDS = 4
CONNECTIONS = 32
IDLE = 8_000
# haproxy asks for two descriptors a connection and refuses to start without them.
CONNECTIONS_MOST = 9_000
# The proxy has a core of its own; the client and the container share the other.
PROXY_CORE, OTHER_CORE = "0", "1"
BODIES = {"small": "", "1 MB": "megabyte"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"bench: nothing listens on port {port}")
            time.sleep(0.05)


def start(stack, core: str, command: list, log: pathlib.Path) -> subprocess.Popen:
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(["taskset", "-c", core, *map(str, command)], stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=output)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def container(stack, directory: pathlib.Path) -> int:
    """nginx with a short answer at / and a megabyte at /megabyte."""
    port = free_port()
    (directory / "megabyte").write_bytes(b"x" * 1_000_000)
    config = directory / "nginx.conf"
    config.write_text(f"""
        user root; daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
        events {{ worker_connections 2048; }}
        http {{
            access_log off; keepalive_requests 100000000; keepalive_timeout 600s; sendfile on; tcp_nodelay on;
            server {{
                listen 127.0.0.1:{port} backlog=4096; root {directory};
                location = / {{ default_type text/plain; return 200 "hello from a container\\n"; }}
            }}
        }}""", encoding="utf-8")
    start(stack, OTHER_CORE, ["nginx", "-p", directory, "-c", config], directory / "nginx.out")
    wait_for_port(port)
    return port


def invar(stack, directory: pathlib.Path, container_port: int) -> tuple:
    """Its port and process."""
    port = free_port()
    config = directory / "gateway.json"
    config.write_text(json.dumps({
        "listeners": [{"address": f"127.0.0.1:{port}"}],
        "services": [{"name": "web", "revisions": [{"name": "r1", "endpoints": [f"127.0.0.1:{container_port}"]}]}],
        "routes": [{"host": "*", "service": "web"}],
    }), encoding="utf-8")
    command = [peers.invar_binary(), "--root", directory / "gateway", "gateway", "--workers", "1", "--drain", "1",
               "--control", directory / "gateway.sock", "--config", config]
    process = start(stack, PROXY_CORE, command, directory / "gateway.out")
    wait_for_port(port)
    return port, process.pid


def haproxy(stack, directory: pathlib.Path, container_port: int) -> tuple:
    """Its port and process."""
    port = free_port()
    config = directory / "haproxy.cfg"
    config.write_text(f"""
global
    nbthread 1
    maxconn {CONNECTIONS_MOST}
defaults
    mode http
    timeout connect 2s
    timeout client 75s
    timeout server 60s
    timeout http-request 10s
    option forwardfor
    http-reuse always
frontend in
    bind 127.0.0.1:{port}
    default_backend out
backend out
    server one 127.0.0.1:{container_port}
""", encoding="utf-8")
    process = start(stack, PROXY_CORE, ["haproxy", "-db", "-f", config], directory / "haproxy.out")
    wait_for_port(port)
    return port, process.pid


def processor_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, pid: int, path: str) -> dict:
    """Seconds for a request of the whole load, the 99th percentile of the latency, and the proxy's processor time for a
    request, which other work on the machine disturbs least."""
    before = processor_seconds(pid)
    output = peers.checked(["taskset", "-c", OTHER_CORE, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s",
                            "--latency", f"http://127.0.0.1:{port}/{path}"])
    if "Socket errors" in output or "Non-2xx" in output:
        sys.exit(f"bench: the load failed:\n{output}")
    spent = processor_seconds(pid) - before
    requests = int(re.search(r"(\d+) requests in", output)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", output).groups()
    return {"time": 1 / rate, "p99": float(value) * {"us": 1e-6, "ms": 1e-3, "s": 1}[unit], "cpu": spent / requests}


def throughput(bench, rounds: int) -> list:
    rows = []
    with contextlib.ExitStack() as stack:
        directory = bench.directory / "proxies"
        directory.mkdir(exist_ok=True)
        behind = container(stack, directory)
        proxies = {
            "invar": invar(stack, directory, behind),
            "haproxy": haproxy(stack, directory, behind),
        }
        for label, path in BODIES.items():
            taken = {name: [] for name in proxies}
            for turn in range(min(rounds, 5) + 1):
                for name, (port, pid) in proxies.items():
                    value = load(port, pid, path)
                    if turn > 0:
                        taken[name].append(value)

            def row(what: str, key: str, most: float) -> Row:
                median = {name: statistics.median(value[key] for value in values) for name, values in taken.items()}
                return Row(f"gateway: {what} of {label} answers", median["invar"], "haproxy", median["haproxy"], most=most)

            rows += [row("time", "time", 1 / 0.9), row("processor time", "cpu", 1 / 0.9), row("p99", "p99", 1.2)]
    return rows


def idle(bench, _rounds: int) -> list:
    """Memory of clients that have asked once and keep their connection."""
    sizes = {}
    with contextlib.ExitStack() as stack:
        directory = bench.directory / "idle"
        directory.mkdir(exist_ok=True)
        behind = container(stack, directory)
        proxies = {
            "invar": invar(stack, directory, behind),
            "haproxy": haproxy(stack, directory, behind),
        }
        peers.raise_descriptor_limit(2 * IDLE)
        for name, (port, pid) in proxies.items():
            before = peers.proportional_set_size(pid)
            clients = []
            for _ in range(IDLE):
                client = socket.create_connection(("127.0.0.1", port))
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                if not client.recv(4096).startswith(b"HTTP/1.1 200"):
                    sys.exit("bench: a client was not answered")
                clients.append(client)
            sizes[name] = peers.proportional_set_size(pid) - before
            for client in clients:
                client.close()
    return [
        Row(f"gateway: {IDLE} idle clients", sizes["invar"], "limit 3 kB each", 3000.0 * IDLE, most=1.0, unit="B"),
        Row(f"gateway: {IDLE} idle clients", sizes["invar"], "haproxy", sizes["haproxy"], unit="B"),
    ]


def gateway(bench, rounds: int) -> list:
    """Requests through the gateway and through haproxy, each on one core; memory of idle clients."""
    return throughput(bench, rounds) + idle(bench, rounds)
