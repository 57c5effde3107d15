"""The sensor: how soon it tells, what it loses, and what watching costs the watched.

The load and the probes are written into a container's upper directory from the host: a program in
the container and the clock of this one would not agree on when a file was written. Only the probes
are severe enough to be written out, so what is measured is the sensor, and not the reading of JSON
in Python.
"""

import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

import peers
from table import Row

RATES = (5_000, 20_000, 50_000)
SECONDS = 5
PROBES_PER_SECOND = 100
# Files in one directory, and how many are written before the clock is looked at.
DIRECTORY, BURST = 1000, 50
# More than are written in a second: the same deed within a second is told only once.
FILES = 60_000
TAR_FILES, PROGRAMS = 20_000, 2_000

UNPACK = "tar -xf /input/many.tar -C /data"
EXECUTE = f"i=0; while [ $i -lt {PROGRAMS} ]; do /bin/true; i=$((i+1)); done"


def sensor(bench, rounds: int) -> list:
    """Latency and losses by rate; then a big tar and many programs, watched and not."""
    bench.invar.remove_all()
    bench.invar.run("run", "-d", "--writable", "--name", "web", "busybox", "sleep", "100000")
    upper = bench.invar.root / "containers" / bench.invar.inspect("web")["Id"] / "upper"
    (upper / "etc/cron.d").mkdir(parents=True)
    for number in range(FILES):
        place = upper / "load" / str(number // DIRECTORY)
        if number % DIRECTORY == 0:
            place.mkdir(parents=True)
        (place / str(number)).touch()
    rows = [row for rate in RATES for row in latency(bench, upper, rate)]
    bench.invar.remove_all()
    return rows + cost(bench, rounds)


class Watch:
    """`invar watch` of one container, from when it has begun."""

    def __init__(self, bench, container: str, *flags):
        self.arrivals = {}
        self.summary = None
        self.process = subprocess.Popen(
            [str(word) for word in bench.invar.command("watch", *flags, "--min-severity", "high", "--format", "jsonl", container)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.complaints = []
        self.begun = threading.Event()
        self.readers = [threading.Thread(target=read) for read in (self.read_events, self.read_notes)]
        for reader in self.readers:
            reader.start()
        if not self.begun.wait(60):
            sys.exit(f"bench: the watch did not begin: {self.complaints}")

    def read_events(self):
        for line in self.process.stdout:
            now = time.perf_counter()
            event = json.loads(line)
            if "summary" in event:
                self.summary = event["summary"]
            else:
                self.arrivals.setdefault(event["path"], now)

    def read_notes(self):
        for line in self.process.stderr:
            self.complaints.append(line.decode(errors="replace"))
            if b"watching " in line:
                self.begun.set()

    def end(self) -> dict:
        self.process.terminate()
        self.process.wait()
        for reader in self.readers:
            reader.join()
        if self.process.returncode != 0 or self.summary is None:
            sys.exit(f"bench: the watch failed: {self.complaints}")
        return self.summary


def latency(bench, upper: pathlib.Path, rate: int) -> list:
    """From before a file is made until its line is read, while so many others are written."""
    watch = Watch(bench, "web")
    load = subprocess.Popen([sys.executable, __file__, upper / "load", str(rate)], stdout=subprocess.PIPE, text=True)
    written = {}
    number, deadline = 0, time.perf_counter() + SECONDS
    while time.perf_counter() < deadline:
        name = f"probe-{rate}-{number}"
        number += 1
        written[f"/etc/cron.d/{name}"] = time.perf_counter()
        (upper / "etc/cron.d" / name).touch()
        time.sleep(1 / PROBES_PER_SECOND)
    reached = float(load.communicate()[0])
    # What is late must not be missing.
    until = time.monotonic() + 60
    while len(watch.arrivals.keys() & written.keys()) < len(written) and time.monotonic() < until:
        time.sleep(0.05)
    summary = watch.end()
    taken = sorted(watch.arrivals[path] - at for path, at in written.items() if path in watch.arrivals)
    lost = summary["dropped"] + len(written) - len(taken)
    said = f"{lost} lost" + (f", the kernel's queue full {summary['overflows']} times" if summary["overflows"] else "")
    what = f"write → event at {reached:,.0f} files/s (asked for {rate:,}; {said})"
    if not taken:
        sys.exit(f"bench: no event of a probe arrived at {rate} files/s")
    met = 1.0 if lost == 0 and not summary["overflows"] else 0.0
    return [
        Row(f"{what}: p50", statistics.median(taken), "limit", 5e-3),
        Row(f"{what}: p99", taken[math.ceil(len(taken) * 0.99) - 1], "limit", 5e-3, most=met),
    ]


def write_files(directory: pathlib.Path, rate: int) -> float:
    """Writes files one after the other, at that rate or as fast as it can; the rate that was reached."""
    paths = [f"{directory}/{number // DIRECTORY}/{number}" for number in range(FILES)]
    done, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < SECONDS:
        if done > elapsed * rate:
            time.sleep(0.0005)
            continue
        for number in range(done, done + BURST):
            file = os.open(paths[number % FILES], os.O_WRONLY)
            os.write(file, b"x")
            os.close(file)
        done += BURST
    return done / (time.perf_counter() - began)


def cost(bench, rounds: int) -> list:
    """The same work unwatched, watched and blocked, one after the other in each round."""
    source = bench.directory / "sensor"
    (source / "tree").mkdir(parents=True)
    for number in range(TAR_FILES):
        place = source / "tree" / str(number // DIRECTORY)
        place.mkdir(exist_ok=True)
        (place / str(number)).write_text(f"{number}\n" * 200, encoding="utf-8")
    peers.checked(["tar", "-C", source / "tree", "-cf", source / "many.tar", "."])
    modes = {"unwatched": None, "watch": (), "watch --block": ("--block",)}
    work = {f"unpacking {TAR_FILES:,} files": UNPACK, f"executing {PROGRAMS:,} programs": EXECUTE}
    taken = {(what, mode): [] for what in work for mode in modes}
    for turn in range(rounds + 1):
        for what, script in work.items():
            for mode, flags in modes.items():
                bench.invar.remove_all()
                bench.invar.run("run", "-d", "--writable", "--name", "work", "-v", f"{source}:/input:ro", "busybox",
                                "sleep", "100000")
                watch = None if flags is None else Watch(bench, "work", *flags)
                seconds = peers.seconds(bench.invar.command("exec", "work", "sh", "-c", script))
                if watch:
                    watch.end()
                if turn > 0:
                    taken[what, mode].append(seconds)
    bench.invar.remove_all()
    medians = {key: statistics.median(values) for key, values in taken.items()}
    # No target: those of BPF are not met by a gate that asks a process for every opening.
    return [Row(f"{what}, {mode}", medians[what, mode], "unwatched", medians[what, "unwatched"])
            for what in work for mode in modes if mode != "unwatched"]


if __name__ == "__main__":
    print(write_files(pathlib.Path(sys.argv[1]), int(sys.argv[2])))
