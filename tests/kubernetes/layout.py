"""An OCI image layout with bytes that follow from its content alone: sorted, owned by root, time 0."""
import hashlib
import io
import json
import os
import tarfile

EPOCH = "1970-01-01T00:00:00Z"
OCI = "application/vnd.oci.image."


def tree(folder):
    """Entries for a whole folder: path in the image -> source path (its type is the source's)."""
    found = {}
    for at, folders, files in os.walk(folder):
        for name in folders + files:
            source = os.path.join(at, name)
            found[os.path.relpath(source, folder)] = source
    return found


def layer(entries, out):
    """Writes a plain tar. An entry is a source path, ("link", target), ("text", bytes) or ("folder", mode)."""
    for path in list(entries):   # every parent, so that no unpacker has to guess
        while path := os.path.dirname(path):
            entries.setdefault(path, ("folder", 0o755))
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(entries):
            kind, value = entries[path] if isinstance(entries[path], tuple) else ("source", entries[path])
            info, data = tarfile.TarInfo(path), None
            if kind == "source" and os.path.islink(value):
                kind, value = "link", os.readlink(value)
            if kind == "link":
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, value, 0o777
            elif kind == "folder" or os.path.isdir(value):
                info.type, info.mode = tarfile.DIRTYPE, value if kind == "folder" else 0o755
            elif kind == "text":
                info.size, info.mode, data = len(value), 0o644, io.BytesIO(value)
            else:
                status = os.stat(value)
                info.size, info.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
                data = open(value, "rb")
            tar.addfile(info, data)


class Layout:
    """A layout folder that images are added to; `close` writes its index."""

    def __init__(self, folder):
        self.folder, self.manifests = folder, []
        os.makedirs(os.path.join(folder, "blobs/sha256"))

    def _keep(self, path):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.rename(path, os.path.join(self.folder, "blobs/sha256", digest))
        return "sha256:" + digest

    def _blob(self, kind, value):
        path = os.path.join(self.folder, "new")
        with open(path, "w") as file:
            json.dump(value, file, sort_keys=True, separators=(",", ":"))
        size = os.path.getsize(path)
        return {"mediaType": OCI + kind, "size": size, "digest": self._keep(path)}

    def add(self, reference, entries, **config):
        """Adds an image of one plain layer. Returns its size."""
        path = os.path.join(self.folder, "new")
        layer(entries, path)
        size = os.path.getsize(path)
        top = {"mediaType": OCI + "layer.v1.tar", "size": size, "digest": self._keep(path)}
        config = self._blob("config.v1+json", {
            "architecture": "amd64", "os": "linux", "created": EPOCH, "config": config,
            "rootfs": {"type": "layers", "diff_ids": [top["digest"]]}, "history": [{"created": EPOCH}]})
        manifest = self._blob("manifest.v1+json", {
            "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": [top]})
        manifest["platform"] = {"architecture": "amd64", "os": "linux"}
        manifest["annotations"] = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference}
        self.manifests.append(manifest)
        return size

    def close(self):
        """Writes what makes the folder a layout."""
        self.manifests.sort(key=lambda m: m["annotations"]["org.opencontainers.image.ref.name"])
        index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": self.manifests}
        for name, value in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index)):
            with open(os.path.join(self.folder, name), "w") as file:
                json.dump(value, file, sort_keys=True, separators=(",", ":"))
