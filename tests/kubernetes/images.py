#!/usr/bin/env python3
"""images.py PROGRAMS DEBS VERSION FOLDER: the images of the lab's clusters, as one OCI layout in FOLDER.

Layers are plain tars: their bytes are the same whichever zlib is about, and a lab's link is faster than gzip.
The names are those that `kubeadm config images list` prints for this version."""
import os
import subprocess
import sys

from layout import Layout, tree

PREFIX = "k8s.gcr.io"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIBRARIES = "lib/x86_64-linux-gnu"
ACCOUNTS = {
    "etc/passwd": ("text", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"),
    "etc/group": ("text", b"root:x:0:\nnogroup:x:65534:\n"),
    "etc/nsswitch.conf": ("text", b"hosts: files dns\n"),
    "tmp": ("folder", 0o1777),
}


def dynamic(debs, *libraries):
    """libc and what else a program of Debian's links."""
    files = {f"{LIBRARIES}/{name}": f"{debs}/root/{LIBRARIES}/{name}" for name in ("libc.so.6", *libraries)}
    loader = "lib64/ld-linux-x86-64.so.2"
    return files | {loader: os.path.realpath(f"{debs}/root/{LIBRARIES}/ld-linux-x86-64.so.2")}


def busybox(debs):
    """The test image: a shell, a web server (httpd) and an HTTP client (wget)."""
    program = f"{debs}/root/bin/busybox"
    names = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split()
    files = {f"bin/{name}": ("link", "busybox") for name in names} | {"bin/busybox": program}
    return files | dynamic(debs, "libresolv.so.2") | ACCOUNTS


def proxy(debs, program):
    """kube-proxy with the tools it calls. Their maintainer scripts didn't run, so iptables' links are made here."""
    files = tree(f"{debs}/proxy")
    for family in ("iptables", "ip6tables"):
        for tool in (family, f"{family}-save", f"{family}-restore"):
            files[f"usr/sbin/{tool}"] = ("link", "xtables-nft-multi")
    return files | ACCOUNTS | {"run": ("folder", 0o755), "usr/local/bin/kube-proxy": program}


def main(programs, debs, version, folder):
    """Adds every image and says how large it is."""
    layout = Layout(folder)

    def image(reference, entries, *entrypoint, **config):
        size = layout.add(reference, dict(entries), Env=[PATH], WorkingDir="/",
                          **({"Entrypoint": list(entrypoint)} if entrypoint else {}), **config)
        print(f"{size >> 20:6} MiB  {reference}")

    for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        at = f"usr/local/bin/{name}"
        image(f"{PREFIX}/{name}:{version}", ACCOUNTS | {at: f"{programs}/{name}"}, "/" + at)
    image(f"{PREFIX}/kube-proxy:{version}", proxy(debs, f"{programs}/kube-proxy"), "/usr/local/bin/kube-proxy")
    etcd = {f"usr/local/bin/{name}": f"{debs}/root/usr/bin/{name}" for name in ("etcd", "etcdctl")}
    image(f"{PREFIX}/etcd:3.4.13-0", etcd | dynamic(debs) | ACCOUNTS, "/usr/local/bin/etcd")
    image(f"{PREFIX}/coredns:1.7.0", ACCOUNTS | {"coredns": f"{programs}/coredns"}, "/coredns")
    image(f"{PREFIX}/pause:3.2", {"pause": f"{programs}/pause"}, "/pause", User="65535:65535")
    image("docker.io/kdc/busybox:1", busybox(debs), Cmd=["sh"])
    layout.close()


if __name__ == "__main__":
    main(*sys.argv[1:5])
