"""The exactness matrix on an emulated aarch64 machine: `python tools/aarch64.py FOLDER`.

Needs `qemu-user-static` and `debootstrap` of Debian, and root for the latter. What it fetches stays in the folder: an
arm64 Debian with Python, and wheels. constriction has none for Linux on aarch64; `calotype.rans` stands in.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from pathlib import Path

HOME = Path(__file__).parent.parent
PACKAGES = "python3.11-minimal,libpython3.11-stdlib,libstdc++6"
WHEELS = ("onnxruntime", "numpy", "pillow")
CPU = "neoverse-n1"
CORE = """processor : {}
Features : fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer : 0x41
CPU architecture: 8
CPU variant : 0x3
CPU part : 0xd0c
CPU revision : 1

"""


def fetch_system(root: Path) -> None:
    """Unpack Debian's packages; nothing of them needs to be set up."""
    options = ["--arch=arm64", "--foreign", "--variant=minbase", f"--include={PACKAGES}"]
    subprocess.run(["debootstrap", *options, "bookworm", str(root)], check=True)
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)


def describe_cpu(root: Path) -> None:
    """Show the cores where onnxruntime looks for them: it would find the host's there, and crash."""
    cores = root / "sys/devices/system/cpu"
    cores.mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present", "online"):
        (cores / name).write_text("0-1\n")
    (cores / "kernel_max").write_text("1\n")
    (root / "proc/cpuinfo").write_text("".join(CORE.format(core) for core in range(2)))


def fetch_wheels(site: Path) -> None:
    """Download and unpack what calotype's decoder needs."""
    wheels = site.with_name("wheels")
    platforms = [f"--platform=manylinux{name}_aarch64" for name in ("_2_28", "_2_27", "_2_26", "2014")]
    options = ["--only-binary=:all:", "--python-version=3.11", *platforms, f"--dest={wheels}"]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, *WHEELS], check=True)
    for wheel in wheels.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)


def main() -> None:
    """Fetch what is not there yet, and run the matrix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    root, site = folder / "root", folder / "site"
    if not (root / "usr/bin/python3.11").exists():
        fetch_system(root)
    describe_cpu(root)
    if not site.exists():
        fetch_wheels(site)
    python = ["qemu-aarch64-static", "-L", str(root), str(root / "usr/bin/python3.11")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (site, HOME / "src"))), "QEMU_CPU": CPU}
    matrix = [str(HOME / "tools/exactness.py"), "--only", "onnxruntime"]
    done = subprocess.run([*python, *matrix], env=environment, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
