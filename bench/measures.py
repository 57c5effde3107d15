"""What is measured. Each measure returns rows for the table; its targets stand beside it."""

import json
import pathlib
import statistics
import time

import peers
from agent import agent
from gateway import gateway
from ports import ports
from registry import pull
from sensor import sensor
from table import Row

MANY_FILES = "i=0; while [ $i -lt 100 ]; do mkdir /data/$i; j=0; while [ $j -lt 1000 ]; do : > /data/$i/$j; j=$((j+1)); done; i=$((i+1)); done"
GIBIBYTE = "dd if=/dev/urandom of=/data/big bs=1M count=1024 2>/dev/null"


# Containers started at once.
TOGETHER = 40
# The kernel's work after the end of a container is over by then, and its fast path for writers of
# control groups, which the one before opened for the next, is closed again.
SETTLE = 0.25


def alternate(rounds: int, runners: dict, pause: float = 0.0) -> dict:
    """Runs every runner once in each round, after one round to warm up; seconds by runner."""
    taken = {name: [] for name in runners}
    for turn in range(rounds + 1):
        for name, runner in runners.items():
            time.sleep(pause)
            value = runner()
            if turn > 0:
                taken[name].append(value)
    return taken


def medians(taken: dict) -> dict:
    return {name: statistics.median(values) for name, values in taken.items()}


def start_and_exit(bench, rounds: int) -> list:
    """Create, start, wait for, and remove a container that runs /bin/true."""
    run = ["run", "--rm", "--network", "none", "busybox", "/bin/true"]
    commands = {
        "invar": bench.invar.command(*run),
        "crun": bench.crun.true(),
        "podman": bench.podman.command(*run),
        "docker": bench.docker.command(*run),
    }
    runners = {name: lambda c=c: peers.seconds(c) for name, c in commands.items()}
    m = medians(alternate(rounds * 2, runners, SETTLE))
    without = medians(alternate(rounds * 2, {name: runners[name] for name in ("invar", "crun")}))
    return [
        Row("run + exit of /bin/true", m["invar"], "crun run", m["crun"], most=1.5),
        Row("run + exit of /bin/true", m["invar"], "podman run --rm", m["podman"]),
        Row("run + exit of /bin/true", m["invar"], "docker run --rm", m["docker"], most=0.1),
        Row("the same without a pause between runs", without["invar"], "crun run", without["crun"], most=1.5),
    ]


def parallel(bench, rounds: int) -> list:
    """As many containers as a small server may start at once."""
    run = bench.invar.command("run", "--rm", "--network", "none", "busybox", "/bin/true")
    commands = {
        "invar": [run] * TOGETHER,
        "crun": [bench.crun.true(f"invar-bench-{number}") for number in range(TOGETHER)],
    }
    runners = {name: lambda c=c: peers.seconds_together(c) for name, c in commands.items()}
    m = medians(alternate(max(rounds, 10), runners, SETTLE))
    return [Row(f"{TOGETHER} × run + exit of /bin/true at once", m["invar"], "crun run", m["crun"], most=1.2)]


def diff(bench, rounds: int) -> list:
    """The changes of a container that added 100,000 files."""
    invar = bench.invar.run("run", "-d", "--writable", "busybox", "sh", "-c", MANY_FILES)
    bench.invar.run("wait", invar)
    docker = bench.docker.run("run", "-d", "--network", "none", "busybox", "sh", "-c", MANY_FILES)
    bench.docker.run("wait", docker)
    upper = upper_of(bench, invar)
    found = len(bench.invar.run("diff", invar).splitlines())
    if found < 100_100:
        raise SystemExit(f"bench: invar diff shows {found} changes of 100,100")
    m = medians(alternate(rounds, {
        "invar": lambda: peers.seconds(bench.invar.command("diff", invar)),
        "find": lambda: peers.seconds(["find", upper]),
        "docker": lambda: peers.seconds(bench.docker.command("diff", docker)),
    }))
    bench.invar.remove_all()
    bench.docker.remove_all()
    return [
        Row("diff of 100,000 added files", m["invar"], "find", m["find"], most=3.0),
        Row("diff of 100,000 added files", m["invar"], "docker diff", m["docker"], most=0.1),
        *unchanged(bench, rounds),
    ]


def unchanged(bench, rounds: int) -> list:
    """The diff of a container that changed nothing, its image having 100,000 files."""
    tar = peers.many_files_rootfs(bench)
    bench.invar.run("import", "many", tar)
    bench.docker.run("import", tar, "many")
    sleep = ["many", "busybox", "sleep", "1000"]
    invar = bench.invar.run("run", "-d", "--writable", *sleep)
    docker = bench.docker.run("run", "-d", "--network", "none", *sleep)
    m = medians(alternate(rounds, {
        "invar": lambda: peers.seconds(bench.invar.command("diff", invar)),
        "docker": lambda: peers.seconds(bench.docker.command("diff", docker)),
    }))
    bench.invar.remove_all()
    bench.docker.remove_all()
    label = "diff, nothing changed in 100,000 files"
    return [
        Row(label, m["invar"], "limit", 0.010, most=1.0),
        Row(label, m["invar"], "docker diff", m["docker"]),
    ]


def upper_of(bench, container: str) -> pathlib.Path:
    return bench.invar.root / "containers" / bench.invar.inspect(container)["Id"] / "upper"


def capture(bench, rounds: int) -> list:
    """Freeze, record and seal a running container; docker commit writes its changes again."""
    return [
        *capture_of(bench, 2 * rounds, "1 GiB changed", GIBIBYTE),
        *capture_of(bench, 2 * rounds, "100,000 files changed", MANY_FILES),
    ]


def capture_of(bench, rounds: int, label: str, change: str) -> list:
    program = ["sh", "-c", f"{change}; sync; touch /data/done; sleep 1000"]
    frozen, total, sealed, memory, commit = [], [], [], [], []
    for turn in range(rounds):
        container = bench.invar.run("run", "-d", "--writable", "busybox", *program)
        wait_for(upper_of(bench, container) / "data/done")
        start = time.perf_counter()
        if turn % 2:
            # The command as users run it: it ends when nothing can be lost any more.
            evidence = bench.invar.run("capture", "--stop", container)
            total.append(time.perf_counter() - start)
            bench.invar.run("evidence", "verify", evidence)
        else:
            output, peak = peers.output_and_peak(bench.invar.command("capture", "--stop", "--format", "json", container))
            sealed.append(time.perf_counter() - start)
            summary = json.loads(output)
            evidence = summary["id"]
            frozen.append(summary["summary"]["frozen_ms"] / 1000)
            memory.append(peak)
        bench.invar.run("evidence", "rm", "--force", evidence)
    for _ in range(min(rounds, 3)):
        container = bench.docker.run("run", "-d", "--network", "none", "busybox", *program)
        upper = bench.docker.run("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", container)
        wait_for(pathlib.Path(upper) / "data/done")
        start = time.perf_counter()
        image = bench.docker.run("commit", container)
        commit.append(time.perf_counter() - start)
        bench.docker.run("rm", "-f", container)
        bench.docker.run("rmi", image)
    taken = statistics.median(total)
    return [
        Row(f"capture, {label}: frozen", statistics.median(frozen), "limit", 0.050, most=1.0),
        Row(f"capture, {label}: taken", taken, "docker commit", statistics.median(commit), most=1 / 20),
        Row(f"capture, {label}: sealed, in the background", statistics.median(sealed), "docker commit", statistics.median(commit)),
        Row(f"capture, {label}: peak memory", statistics.median(memory), "limit 64 MB", 64e6, most=1.0, unit="B"),
    ]


def replace(bench, rounds: int) -> list:
    """From the command to a fresh container that runs, the old one captured."""
    container = bench.invar.run("run", "-d", "--writable", "--name", "web", "busybox",
                                "sh", "-c", "echo changed >/data/page; sleep 1000")
    wait_for(upper_of(bench, container) / "data/page")
    taken = [peers.seconds(bench.invar.command("replace", "web")) for _ in range(rounds)]
    if bench.invar.inspect("web")["State"]["Status"] != "running":
        raise SystemExit("bench: the fresh container does not run")
    bench.invar.remove_all()
    return [Row("replace, from command to running", statistics.median(taken), "limit", 0.300, most=1.0)]


def wait_for(path: pathlib.Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {path} did not appear")
        time.sleep(0.05)


def memory(bench, _rounds: int) -> list:
    """The process that stays beside each container, proportional set size."""
    sleep = ["busybox", "sleep", "1000"]
    invar = bench.invar.run("run", "-d", *sleep)
    podman = bench.podman.run("run", "-d", "--network", "none", *sleep)
    docker = bench.docker.run("run", "-d", "--network", "none", *sleep)
    pids = {
        "invar": bench.invar.inspect(invar)["State"]["Pid"],
        "podman": bench.podman.run("inspect", "-f", "{{.State.Pid}}", podman),
        "docker": bench.docker.run("inspect", "-f", "{{.State.Pid}}", docker),
    }
    # A shim gives back what starting took once its container has run for a second.
    time.sleep(2)
    pss = {name: peers.proportional_set_size(parent(pid)) for name, pid in pids.items()}
    for engine in (bench.invar, bench.podman, bench.docker):
        engine.remove_all()
    return [
        Row("memory beside a container", pss["invar"], "limit 2 MB", 2e6, most=1.0, unit="B"),
        Row("memory beside a container", pss["invar"], "conmon", pss["podman"], unit="B"),
        Row("memory beside a container", pss["invar"], "containerd-shim", pss["docker"], unit="B"),
    ]


def parent(pid) -> int:
    status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))


def import_rootfs(bench, rounds: int) -> list:
    """Import of a Debian root file system of about 500 MB; the image is removed after each round."""
    tar = peers.debian_rootfs()

    def one(engine, arguments):
        taken = peers.seconds(engine.command(*arguments))
        engine.run("rmi", "debian")
        if engine.name == "invar":
            engine.run("image", "prune")
        return taken

    m = medians(alternate(rounds, {
        "invar": lambda: one(bench.invar, ["import", "debian", tar]),
        "docker": lambda: one(bench.docker, ["import", tar, "debian"]),
        "podman": lambda: one(bench.podman, ["import", tar, "debian"]),
    }))
    size = tar.stat().st_size / 1e6
    label = f"import of a {size:.0f} MB Debian root"
    return [
        Row(label, m["invar"], "docker import", m["docker"], most=1.0),
        Row(label, m["invar"], "podman import", m["podman"], most=1.0),
    ]


ALL = {
    "start": start_and_exit,
    "parallel": parallel,
    "memory": memory,
    "diff": diff,
    "capture": capture,
    "replace": replace,
    "import": import_rootfs,
    "pull": pull,
    "ports": ports,
    "gateway": gateway,
    "agent": agent,
    "sensor": sensor,
}
