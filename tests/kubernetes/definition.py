#!/usr/bin/env python3
"""definition.py TEMPLATE PROGRAMS IMAGES PACKAGES AGENT FOLDER: what the lab's bundle is built from, under one roof.

FOLDER gets links to the inputs and `definition.yaml`: the template, which names its inputs by paths
in FOLDER, and one more artifact for every package and for the agent."""
import os
import re
import subprocess
import sys


def control(deb, *fields):
    """Fields of a package's control file."""
    return [subprocess.run(["dpkg-deb", "--field", deb, field], check=True, capture_output=True, text=True).stdout.strip()
            for field in fields]


def package(folder, name):
    """One package as an artifact."""
    title, version = control(os.path.join(folder, name), "Package", "Version")
    return (f'- {{name: {title}, kind: package, platform: linux/amd64, version: "{version}", '
            f'source: {{path: "packages/{name}"}}}}\n')


def sizes(text, folder):
    """Bytes of each kind, from the sources that the text names."""
    total = {}
    for path in re.findall(r'source: \{path: "?([^"}]+)', text):
        kind = path.split("/")[0]
        total[kind] = total.get(kind, 0) + os.path.getsize(os.path.join(folder, path))
    blobs = os.path.join(folder, "images/blobs/sha256")
    return total | {"images": sum(entry.stat().st_size for entry in os.scandir(blobs))}


def main(template, programs, images, packages, agent, folder):
    """Writes the folder and says what lies in it."""
    os.mkdir(os.path.join(folder, "agent"))
    for name, target in (("programs", programs), ("images", images), ("packages", packages), ("agent/kdc-agent", agent)):
        os.symlink(os.path.realpath(target), os.path.join(folder, name))
    with open(template, encoding="utf-8") as file:
        text = file.read()
    text += "".join(package(packages, name) for name in sorted(os.listdir(packages)))
    text += "- {name: kdc-agent, kind: agent, platform: linux/amd64, licence: Apache-2.0, source: {path: agent/kdc-agent}}\n"
    with open(os.path.join(folder, "definition.yaml"), "w", encoding="utf-8") as file:
        file.write(text)
    for kind, size in sorted(sizes(text, folder).items()):
        print(f"{size / 2**20:7.1f} MiB  {kind}")


if __name__ == "__main__":
    main(*sys.argv[1:7])
