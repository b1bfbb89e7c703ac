"""Write the bill of materials of the single executable, as a module that it takes in.

Run in the build root, after the loader: `materials.py ARCH RUST_TARGET PACKAGES MODULE`. Lists what
is linked or packed in, from the locks and from what was unpacked; CycloneDX 1.6. Knows no file of
the result.
"""

from __future__ import annotations

import email
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import uuid
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[2]
MANIFEST = TREE / "native" / "Cargo.toml"
ROOT_LOCK = Path(__file__).with_name("root.lock")
DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "armv7": "armhf"}

Component = dict[str, Any]


def component(name: str, version: str, licence: str, purl: str, sha256: str | None) -> Component:
    """Return an entry of the list; `licence` is an SPDX expression."""
    found: Component = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "licenses": [{"expression": licence}],
        "purl": purl,
    }
    if sha256 is not None:
        found["hashes"] = [{"alg": "SHA-256", "content": sha256}]
    return found


def debian(arch: str) -> list[Component]:
    """Return what is taken in from Debian: CPython, libffi, zlib and the compilers' libraries."""
    rows = [line.split() for line in ROOT_LOCK.read_text().splitlines() if line[0] != "#"]
    name = DEBIAN_NAMES[arch]
    cross = {"arm64": "-arm64-cross", "armhf": "-armhf-cross"}.get(name, "")
    wanted = {
        "libffi-dev": ("libffi", name, "MIT"),
        "zlib1g-dev": ("zlib", name, "Zlib"),
        "libstd-rust-web-dev": ("rust-std", name, "MIT OR Apache-2.0"),
        f"libgcc-12-dev{cross}": (
            "libgcc",
            "all" if cross else name,
            "GPL-3.0-or-later WITH GCC-exception-3.1",
        ),
    }
    if arch == "armv7":  # As `orjson_needs` of target.sh says.
        wanted["libgcc-s1"] = ("libgcc_s", name, "GPL-3.0-or-later WITH GCC-exception-3.1")
    found = []
    for package, architecture, version, sha256 in rows:
        title, where, licence = wanted.get(package, ("", "", ""))
        if title and where == architecture:
            purl = f"pkg:deb/debian/{package}@{version}?arch={architecture}&distro=bookworm"
            found.append(component(title, version, licence, purl, sha256))
    if len(found) != len(wanted):
        raise SystemExit(f"cannot list what Debian gave: root.lock lacks some of {list(wanted)}")
    (source,) = (row for row in rows if re.fullmatch(r"python3.11_.*\.dsc", row[0]))
    version = source[0].removeprefix("python3.11_").removesuffix(".dsc")
    purl = f"pkg:deb/debian/python3.11@{version}?arch=source&distro=bookworm"
    return [component("cpython", version, "PSF-2.0", purl, source[3]), *found]


def python_package(metadata: Path, distribution: Path) -> Component:
    """Return the package that `metadata` tells of and that came as the file `distribution`."""
    told = email.message_from_bytes(metadata.read_bytes())
    name, version = told["Name"], told["Version"]
    licence = told["License-Expression"] or LICENCES[name]
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}?file_name={distribution.name}"
    return component(
        name, version, licence, purl, hashlib.sha256(distribution.read_bytes()).hexdigest()
    )


# Of packages whose metadata say it in words only.
LICENCES = {
    "paho-mqtt": "EPL-2.0 OR BSD-3-Clause",
    "pyinstaller": "GPL-2.0-or-later WITH Bootloader-exception",
}


def python(arch: str, packages: Path) -> list[Component]:
    """Return the Python packages of the archive, cffi's backend and PyInstaller's bootloader."""
    found = []
    for name in ("orjson", "paho_mqtt", "tomli"):
        folder = packages / (f"orjson-{arch}" if name == "orjson" else "pure")
        (metadata,) = folder.glob(f"{name}-*.dist-info/METADATA")
        wheels = packages / (f"wheels-{arch}" if name == "orjson" else "wheels-pure")
        (wheel,) = wheels.glob(f"{name}-*.whl")
        found.append(python_package(metadata, wheel))
    for name in ("cffi", "pyinstaller"):
        (archive,) = (packages / "sources").glob(f"{name}-*.tar.gz")
        found.append(python_package(packages / name / "PKG-INFO", archive))
    return found


def crates(rust_target: str) -> list[Component]:
    """Return the crates that are linked in: what limpet-driver needs, but for its own tests."""
    command = ["cargo", "metadata", "--format-version=1", "--locked"]
    command += ["--filter-platform", rust_target, "--manifest-path", str(MANIFEST)]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    lock = tomllib.loads(MANIFEST.with_name("Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    edges = {
        node["id"]: [
            dependency["pkg"]
            for dependency in node["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"])
        ]
        for node in metadata["resolve"]["nodes"]
    }
    (start,) = (i for i, package in packages.items() if package["name"] == "limpet-driver")
    reached, left = set(), [start]
    while left:
        node = left.pop()
        if node not in reached:
            reached.add(node)
            left += edges[node]
    found = []
    for package in (packages[node] for node in reached):
        name, version = package["name"], package["version"]
        licence = package["license"].replace("/", " OR ")
        purl = f"pkg:cargo/{name}@{version}"
        found.append(component(name, version, licence, purl, checksums[name, version]))
    return sorted(found, key=lambda entry: str(entry["purl"]))


def bill(arch: str, rust_target: str, packages: Path) -> dict[str, Any]:
    """Return the whole document."""
    text = (TREE / "runtime" / "limpet" / "__init__.py").read_text()
    (version,) = re.findall(r'__version__ = "(.*)"', text)
    listed = [*debian(arch), *python(arch, packages), *crates(rust_target)]
    built_s = int(os.environ["SOURCE_DATE_EPOCH"])
    purl = f"pkg:generic/limpet@{version}?arch={arch}"
    content = json.dumps([purl, built_s, listed])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(built_s)),
            "component": {
                "type": "application",
                "bom-ref": purl,
                "name": "limpet",
                "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
                "purl": purl,
            },
        },
        "components": listed,
        "dependencies": [
            {"ref": purl, "dependsOn": [entry["bom-ref"] for entry in listed]},
        ],
    }


def main(arch: str, rust_target: str, packages: Path, module: Path) -> None:
    """Write `module`."""
    text = json.dumps(bill(arch, rust_target, packages), indent=1)
    module.write_text(f'"""The bill of materials of this file."""\n\nTEXT = {text!r}\n')


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
