#!/usr/bin/env python3
"""archives.py DEFINITION FOLDER: the lab's definition with its runtime as upstream releases it, not as packages.

FOLDER gets `definition.yaml`, links to the inputs of DEFINITION, and `archives/`: containerd below `bin/` and crictl as
`.tar.gz`, the CNI plugins as `.tar.zst`, runc as a bare program. Their content is that of Debian's packages; their
members have an owner of their own, as upstream's do."""
import glob
import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile

# What the archives bring, so that the packages and the binary of that name are left out.
REPLACED = ("containerd", "runc", "containernetworking-plugins", "crictl")

ARTIFACTS = """\
- {name: containerd, kind: archive, unpackTo: /usr/local, platform: linux/amd64, source: {path: archives/containerd.tar.gz}}
- {name: cni-plugins, kind: archive, unpackTo: /opt/cni/bin, platform: linux/amd64, source: {path: archives/cni-plugins.tar.zst}}
- {name: crictl, kind: archive, unpackTo: /usr/local/bin, platform: linux/amd64, source: {path: archives/crictl.tar.gz}}
- {name: runc, kind: binary, platform: linux/amd64, source: {path: archives/runc}}
"""


def unpacked(packages, name, scratch):
    """A package's files in a folder of its own."""
    (deb,) = glob.glob(os.path.join(packages, f"{name}_*.deb"))
    folder = os.path.join(scratch, name)
    subprocess.run(["dpkg-deb", "--extract", deb, folder], check=True)
    return folder


def tar_of(folders, files):
    """A tar of folders and (name, path) pairs, the same bytes each time."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in folders:
            tar.addfile(member(name, tarfile.DIRTYPE, 0))
        for name, path in files:
            with open(path, "rb") as file:
                tar.addfile(member(name, tarfile.REGTYPE, os.path.getsize(path)), file)
    return content.getvalue()


def member(name, kind, size):
    """A header whose owner is nobody's on a node."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.uid, info.gid = kind, size, 0o755, 1001, 127
    return info


def write(folder, name, content):
    """One input."""
    with open(os.path.join(folder, "archives", name), "wb") as file:
        file.write(content)


def make_archives(packages, crictl, folder):
    """All inputs that the packages' place is taken by."""
    with tempfile.TemporaryDirectory() as scratch:
        programs = os.path.join(unpacked(packages, "containerd", scratch), "usr/bin")
        names = sorted(os.listdir(programs))
        tar = tar_of(["bin"], [(f"bin/{name}", os.path.join(programs, name)) for name in names])
        write(folder, "containerd.tar.gz", gzip.compress(tar, 6, mtime=0))
        plugins = os.path.join(unpacked(packages, "containernetworking-plugins", scratch), "usr/lib/cni")
        files = [(f"./{name}", os.path.join(plugins, name)) for name in sorted(os.listdir(plugins))]
        tar = tar_of(["./"], files)
        zstd = subprocess.run(["zstd", "-q", "-3", "-c"], input=tar, stdout=subprocess.PIPE, check=True).stdout
        write(folder, "cni-plugins.tar.zst", zstd)
        write(folder, "crictl.tar.gz", gzip.compress(tar_of([], [("crictl", crictl)]), 6, mtime=0))
        with open(os.path.join(unpacked(packages, "runc", scratch), "usr/sbin/runc"), "rb") as file:
            write(folder, "runc", file.read())


def main(definition, folder):
    """Writes the folder."""
    inputs = os.path.dirname(os.path.realpath(definition))
    for name in ("programs", "images", "packages", "agent"):
        os.symlink(os.path.realpath(os.path.join(inputs, name)), os.path.join(folder, name))
    os.mkdir(os.path.join(folder, "archives"))
    make_archives(os.path.join(folder, "packages"), os.path.join(folder, "programs/crictl"), folder)
    with open(definition, encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    replaced = re.compile(r"- \{name: (%s)," % "|".join(REPLACED))
    kept = [line for line in lines if not replaced.match(line)]
    if len(lines) - len(kept) != len(REPLACED):
        sys.exit(f"{definition} has {len(lines) - len(kept)} of {len(REPLACED)} artifacts that archives replace")
    text = "".join(kept).replace("cniBinDir: /usr/lib/cni\n", "cniBinDir: /opt/cni/bin\n") + ARTIFACTS
    with open(os.path.join(folder, "definition.yaml"), "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main(*sys.argv[1:3])
