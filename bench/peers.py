"""The runners that are measured: invar, crun, and private Docker and Podman engines."""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

PROJECT = pathlib.Path(__file__).resolve().parent.parent
SCRATCH = pathlib.Path("/var/tmp")
NO_NETWORK = ["--bridge=none", "--iptables=false", "--ip-masq=false"]


def hide_unified_cgroup() -> None:
    """Continues in a mount namespace of our own without the empty cgroup2 mount of a hybrid host.

    crun refuses hybrid hosts; every runner sees the same.
    """
    if os.environ.get("INVAR_BENCH_INSIDE"):
        if os.path.ismount("/sys/fs/cgroup/unified"):
            checked(["umount", "/sys/fs/cgroup/unified"])
        return
    os.environ["INVAR_BENCH_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])


def checked(command: list, **options) -> str:
    """Runs a command that must succeed; its standard output."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr}{done.stdout}")
    return done.stdout.strip()


def seconds(command: list, output=subprocess.DEVNULL) -> float:
    """How long a command that must succeed takes."""
    command = [str(part) for part in command]
    start = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE)
    taken = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(command)} ended with {done.returncode}: {done.stderr.decode()}")
    return taken


def seconds_together(commands: list) -> float:
    """How long commands that must succeed take when all are started at once."""
    commands = [[str(part) for part in command] for command in commands]
    start = time.perf_counter()
    # What one says is less than a pipe holds.
    processes = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                 for command in commands]
    codes = [process.wait() for process in processes]
    taken = time.perf_counter() - start
    for command, process, code in zip(commands, processes, codes):
        said = process.stderr.read().decode()
        process.stderr.close()
        if code != 0:
            sys.exit(f"bench: {' '.join(command)} ended with {code}: {said}")
    return taken


def output_and_peak(command: list) -> tuple:
    """The standard output of a command that must succeed, and the most memory it had resident, in bytes."""
    command = [str(part) for part in command]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"bench: {' '.join(command)} ended with {process.returncode}")
    return output, 1024.0 * usage.ru_maxrss


def proportional_set_size(pid: int) -> float:
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    return 1024.0 * int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))


def raise_descriptor_limit(count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, hard)))


def invar_binary() -> pathlib.Path:
    target = next(line[6:] for line in checked(["rustc", "-vV"]).splitlines() if line.startswith("host: "))
    directory = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target"))
    return directory / target / "release" / "invar"


class Bench:
    """Everything a measure needs; engines are started when first asked for, removed at the end."""

    def __init__(self, stack):
        self.stack = stack
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="invar-bench-", dir=SCRATCH))
        stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.made = {}

    def once(self, make):
        """The engine that `make` starts, the same at every call."""
        if make not in self.made:
            self.made[make] = make(self)
        return self.made[make]

    @property
    def invar(self):
        return self.once(Invar)

    @property
    def docker(self):
        return self.once(Docker)

    @property
    def podman(self):
        return self.once(Podman)

    @property
    def crun(self):
        return self.once(Crun)

    @property
    def rootfs(self) -> pathlib.Path:
        return self.once(busybox_rootfs)


class Engine:
    """A runner with Docker's words: `engine.command("run", …)` is a command line."""

    prefix: list

    def command(self, *words) -> list:
        return [*self.prefix, *words]

    def run(self, *words) -> str:
        return checked(self.command(*words))

    def remove_all(self) -> None:
        for container in self.run("ps", "-a", "-q").split():
            self.run("rm", "-f", container)


class Invar(Engine):
    name = "invar"

    def __init__(self, bench, root: pathlib.Path | None = None, before: list = ()):
        """With a state root of its own, and words before every command."""
        self.binary = invar_binary()
        self.root = root or bench.directory / "invar"
        self.prefix = [*before, self.binary, "--root", self.root]
        self.run("import", "busybox", bench.rootfs)
        bench.stack.callback(self.remove_all)

    def inspect(self, container: str) -> dict:
        return json.loads(self.run("inspect", container))[0]

    def remove_all(self) -> None:
        # Only its own: other engines' containers on this machine are somebody's work.
        for container in self.run("ps", "-a", "-q", "--engine", "embedded").split():
            self.run("rm", "-f", f"embedded:{container}")


class Docker(Engine):
    name = "docker"

    def __init__(self, bench, directory: pathlib.Path | None = None, before: list = (), network: list = NO_NETWORK):
        """With a directory of its own, words before every command, and what the daemon is told of networks."""
        directory = directory or bench.directory / "docker"
        directory.mkdir()
        socket = f"unix://{directory}/socket"
        with open(directory / "log", "w", encoding="utf-8") as log:
            daemon = subprocess.Popen(
                [*before, "dockerd", "--data-root", directory / "data", "--exec-root", directory / "exec", "--pidfile",
                 directory / "pid", "--host", socket, *network],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        bench.stack.callback(daemon.wait)
        bench.stack.callback(daemon.terminate)
        self.prefix = [*before, "docker", "--host", socket]
        deadline = time.monotonic() + 60
        while subprocess.run(self.command("version"), capture_output=True).returncode != 0:
            if time.monotonic() > deadline:
                sys.exit(f"bench: dockerd did not start:\n{(directory / 'log').read_text()}")
            time.sleep(0.1)
        bench.stack.callback(self.remove_all)
        self.run("import", bench.rootfs, "busybox")


class Podman(Engine):
    name = "podman"

    def __init__(self, bench):
        directory = bench.directory / "podman"
        self.prefix = ["podman", "--root", directory / "root", "--runroot", directory / "run",
                       "--cgroup-manager=cgroupfs", "--storage-driver=overlay", "--events-backend=none"]
        self.run("import", bench.rootfs, "busybox")
        bench.stack.callback(checked, self.command("rmi", "--all", "--force"))
        bench.stack.callback(self.remove_all)

    def command(self, *words) -> list:
        # It asks for more than a confined host may grant, and then starts nothing.
        limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]
        return super().command(words[0], *(limits if words[0] in ("run", "create") else []), *words[1:])


class Crun:
    name = "crun"

    def __init__(self, bench):
        self.bundle = bench.directory / "crun"
        (self.bundle / "rootfs").mkdir(parents=True)
        checked(["tar", "-xf", bench.rootfs, "-C", self.bundle / "rootfs"])
        checked(["crun", "spec"], cwd=self.bundle)
        config = self.bundle / "config.json"
        spec = json.loads(config.read_text(encoding="utf-8"))
        spec["process"]["args"] = ["/bin/true"]
        spec["process"]["terminal"] = False
        config.write_text(json.dumps(spec), encoding="utf-8")

    def true(self, name: str = "invar-bench") -> list:
        return ["crun", "--cgroup-manager=cgroupfs", "run", "--bundle", self.bundle, name]


def busybox_rootfs(bench) -> pathlib.Path:
    """A tar of a root file system with the host's static busybox."""
    tree = bench.directory / "busybox"
    for part in ("bin", "etc", "tmp", "data"):
        (tree / part).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), tree / "bin/busybox")
    for applet in checked([tree / "bin/busybox", "--list"]).split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n", encoding="utf-8")
    tar = bench.directory / "busybox.tar"
    checked(["tar", "-C", tree, "--numeric-owner", "--owner=0", "--group=0", "-cf", tar, "."])
    return tar


def many_files_rootfs(bench) -> pathlib.Path:
    """The tar with 100,000 small files more."""
    tree = bench.directory / "busybox"
    for directory in range(100):
        (tree / f"data/{directory}").mkdir()
        for file in range(1000):
            (tree / f"data/{directory}/{file}").write_text(f"{file}\n", encoding="utf-8")
    tar = bench.directory / "many.tar"
    checked(["tar", "-C", tree, "--numeric-owner", "--owner=0", "--group=0", "-cf", tar, "."])
    shutil.rmtree(tree / "data")
    return tar


def debian_rootfs() -> pathlib.Path:
    """A tar of about 500 MB of Debian, made once and kept under target/."""
    path = PROJECT / "target/testkit/debian-500mb.tar"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished.tar")
        checked(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase",
                 "--include=build-essential,python3,git,perl-doc", "bookworm", unfinished])
        unfinished.rename(path)
    return path
