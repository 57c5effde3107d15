"""Pulling an image of six layers and about 500 MB from a registry on this machine."""

import gzip
import hashlib
import json
import pathlib
import socket
import statistics
import subprocess
import sys
import tarfile
import time

import peers
from table import Row

LAYERS = 6
ROUNDS = 5
MEGABYTE = 1e6


class Registry:
    """A docker-registry with the image `debian`."""

    def __init__(self, bench):
        directory = bench.directory / "registry"
        directory.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = directory / "config.yml"
        config.write_text(
            f"version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n"
            f"storage:\n  filesystem:\n    rootdirectory: {directory}/data\n"
            f"http:\n  addr: 127.0.0.1:{port}\n", encoding="utf-8")
        server = subprocess.Popen(["docker-registry", "serve", config], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        bench.stack.callback(server.wait)
        bench.stack.callback(server.terminate)
        self.image = f"127.0.0.1:{port}/debian:bench"
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    sys.exit("bench: docker-registry did not start")
                time.sleep(0.1)
        layout = directory / "layout"
        write_layout(layout, split(peers.debian_rootfs(), directory))
        peers.checked(["skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}", f"docker://{self.image}"])


def split(tar: pathlib.Path, directory: pathlib.Path) -> list:
    """The tar as six of about the same size; a hard link stays with its file."""
    paths = [directory / f"layer-{number}.tar" for number in range(LAYERS)]
    place = {}
    with tarfile.open(tar) as source:
        total = sum(member.size for member in source)
    outputs = [tarfile.open(path, "w", format=tarfile.PAX_FORMAT) for path in paths]
    seen = 0
    with tarfile.open(tar) as source:
        for member in source:
            number = min(seen * LAYERS // total, LAYERS - 1)
            if member.islnk():
                number = place[member.linkname]
            place[member.name] = number
            content = source.extractfile(member) if member.isreg() else None
            outputs[number].addfile(member, content)
            seen += member.size
    for output in outputs:
        output.close()
    return paths


def write_layout(layout: pathlib.Path, tars: list) -> None:
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(media_type: str, content: bytes) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}",
                "size": len(content)}

    diff_ids, layers = [], []
    for tar in tars:
        content = tar.read_bytes()
        tar.unlink()
        diff_ids.append("sha256:" + hashlib.sha256(content).hexdigest())
        layers.append(blob("layer.v1.tar+gzip", gzip.compress(content, 6, mtime=0)))
    architecture = peers.checked(["dpkg", "--print-architecture"])
    config = {"os": "linux", "architecture": architecture, "config": {"Cmd": ["/bin/sh"]},
              "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config = blob("config.v1+json", json.dumps(config).encode())
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config, "layers": layers}
    index = {"schemaVersion": 2, "manifests": [blob("manifest.v1+json", json.dumps(manifest).encode())]}
    (layout / "index.json").write_text(json.dumps(index), encoding="utf-8")
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")


def pull(bench, _rounds: int) -> list:
    """Pull and unpack; each runner forgets the image before the next round."""
    image = bench.once(Registry).image
    podman = bench.podman.command("pull", "--tls-verify=false", "--quiet", image)
    commands = {
        "invar": bench.invar.command("pull", "--quiet", image),
        "docker": bench.docker.command("pull", "--quiet", image),
        "podman": podman,
    }

    def once(name: str) -> float:
        taken = peers.seconds(commands[name])
        getattr(bench, name).run("rmi", image)
        if name == "invar":
            bench.invar.run("image", "prune")
        return taken

    taken = {name: [] for name in commands}
    for turn in range(ROUNDS + 1):
        for name in commands:
            value = once(name)
            if turn > 0:
                taken[name].append(value)
    m = {name: statistics.median(values) for name, values in taken.items()}
    what = "pull of 6 layers, 500 MB"
    memory = peak(bench.invar.command("pull", "--quiet", image))
    return [
        Row(what, m["invar"], "docker pull", m["docker"], most=0.5),
        Row(what, m["invar"], "podman pull", m["podman"], most=0.5),
        Row("memory of that pull", memory, "limit", 100 * MEGABYTE, most=1.0, unit="B"),
    ]


def peak(command: list) -> float:
    """The most memory a command has at once. Started by a small process: the kernel counts what the starter had, too,
    and this one has held whole layers."""
    script = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
              "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    return 1024.0 * int(peers.checked([sys.executable, "-c", script, *command]))
