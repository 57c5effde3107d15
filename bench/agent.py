"""The agent: what it costs when nothing happens, and how fast it heals."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import peers
from table import Row

CONTAINERS = 50
IDLE_SECONDS = 30
POLICY = 'version = 1\n[default]\nmode = "block"\nrespond = "replace"\ncooldown = { most = 1000 }\n'


def agent(bench, rounds: int) -> list:
    """Memory and processor time of an idle agent of 50 containers; then attacks on one of them."""
    bench.invar.remove_all()
    for number in range(CONTAINERS):
        bench.invar.run("run", "-d", "--writable", "--name", f"web{number}", "busybox", "sleep", "100000")
    policy = bench.directory / "agent.toml"
    policy.write_text(POLICY, encoding="utf-8")
    log = open(bench.directory / "agent.log", "w", encoding="utf-8")
    process = subprocess.Popen(bench.invar.command("agent", "--policy", policy), stdin=subprocess.DEVNULL,
                               stdout=log, stderr=log)
    try:
        wait_until(lambda: len(status(bench)["containers"]) == CONTAINERS)
        # What its start took is given back after a while.
        time.sleep(5)
        before, began = processor_seconds(process.pid), time.monotonic()
        time.sleep(IDLE_SECONDS)
        idle = (processor_seconds(process.pid) - before) / (time.monotonic() - began)
        memory = peers.proportional_set_size(process.pid)
        healed = [heal(bench) for _ in range(rounds)]
    finally:
        process.terminate()
        process.wait()
        log.close()
        bench.invar.remove_all()
    return [
        Row(f"idle agent, {CONTAINERS} containers: memory", memory, "limit 25 MB", 25e6, most=1.0, unit="B"),
        Row(f"idle agent, {CONTAINERS} containers: share of one processor", idle, "limit", 0.005, most=1.0, unit="%"),
        Row("attack, from the refused program to a fresh container", statistics.median(healed), "limit", 1.0, most=1.0),
    ]


def heal(bench) -> float:
    """Seconds from a refused program until another container has the name and runs."""
    old = bench.invar.inspect("web0")["Id"]
    wait_until(lambda: any(one["id"] == old for one in status(bench)["containers"]))
    upper = bench.invar.root / "containers" / old / "upper"
    program = upper / "evil"
    program.write_bytes(pathlib.Path("/bin/busybox").read_bytes())
    program.chmod(0o755)
    began = time.perf_counter()
    subprocess.run(bench.invar.command("exec", "web0", "/evil", "true"), capture_output=True)

    def is_replaced():
        done = subprocess.run(bench.invar.command("inspect", "web0"), capture_output=True, text=True)
        found = json.loads(done.stdout)[0] if done.returncode == 0 else None
        return found and found["Id"] != old and found["State"]["Status"] == "running"

    wait_until(is_replaced)
    return time.perf_counter() - began


def status(bench) -> dict:
    done = subprocess.run(bench.invar.command("agent", "status", "--format", "json"), capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {"containers": []}


def processor_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until(holds) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        if time.monotonic() > deadline:
            sys.exit("bench: the agent did not do what it should; see its log")
        time.sleep(0.01)
