#!/usr/bin/env python3
"""archive.py LAYOUT OUT REFERENCE...: the named images of an OCI layout as one tar that `ctr images import` reads."""
import io
import json
import sys
import tarfile


def main(layout, out, *references):
    """Writes the tar: the layout's files with an index of the wanted images only, and their blobs."""
    def document(path):
        with open(f"{layout}/{path}", encoding="utf-8") as file:
            return json.load(file)

    def blob(digest):
        return "blobs/" + digest.replace(":", "/")

    index, blobs = document("index.json"), set()
    name = "org.opencontainers.image.ref.name"
    index["manifests"] = [m for m in index["manifests"] if m["annotations"][name] in references]
    assert len(index["manifests"]) == len(references), f"{layout} lacks some of {references}"
    for entry in index["manifests"]:
        manifest = document(blob(entry["digest"]))
        blobs |= {blob(part["digest"]) for part in (entry, manifest["config"], *manifest["layers"])}
    with tarfile.open(out, "w") as tar:
        tar.add(f"{layout}/oci-layout", "oci-layout")
        text = json.dumps(index).encode()
        info = tarfile.TarInfo("index.json")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
        for path in sorted(blobs):
            tar.add(f"{layout}/{path}", path)


if __name__ == "__main__":
    main(*sys.argv[1:])
