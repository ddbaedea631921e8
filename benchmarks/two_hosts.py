"""Two hosts on one machine: network namespaces joined by a link of limited bandwidth, for jobs of two ranks.

Each rank runs in a namespace of its own and reaches the other through a pair of virtual devices. The kernel's token
bucket filter limits both directions. The link adds no delay, because that needs a module (netem) that few systems load.

Needs Linux, root, and iproute2 (ip, tc).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("tinygpt-a", "tinygpt-b")
DEVICE = "tg0"  # of both hosts
HOSTS = ("10.77.0.1", "10.77.0.2")
# mpiexec calls this in place of ssh: options, the host, then the command.
SHELL = f"""#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done
host=$1; shift
case $host in {HOSTS[0]}) name={NAMES[0]};; *) name={NAMES[1]};; esac
exec ip netns exec $name sh -c "$*"
"""


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def available() -> bool:
    """Return True if this process can make network namespaces."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and all(map(shutil.which, ("ip", "tc", "mpiexec")))


@contextmanager
def two_hosts(rate: str | None) -> Iterator[list[str]]:
    """Make two hosts and yield the command that runs a program on both of them.

    Parameters
    ----------
    rate : str or None
        Bandwidth of each direction as tc writes it, such as ``1gbit``; None for no limit.
    """
    with tempfile.TemporaryDirectory() as folder:
        shell = Path(folder, "shell")
        shell.write_text(SHELL)
        shell.chmod(0o755)
        try:
            for name in NAMES:
                _run("ip", "netns", "add", name)
                _run("ip", "-n", name, "link", "set", "lo", "up")
            peer = ("peer", "name", DEVICE, "netns", NAMES[1])
            _run("ip", "link", "add", DEVICE, "netns", NAMES[0], "type", "veth", *peer)
            for name, host in zip(NAMES, HOSTS, strict=True):
                _run("ip", "-n", name, "addr", "add", f"{host}/24", "dev", DEVICE)
                _run("ip", "-n", name, "link", "set", DEVICE, "up")
                if rate:
                    limit = ("tbf", "rate", rate, "burst", "1mb", "latency", "100ms")
                    _run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", DEVICE, "root", *limit)
            time.sleep(1.5)  # until the link is up
            job = ["mpiexec", "-launcher", "ssh", "-launcher-exec", str(shell), "-localhost", "10.77.0.9"]
            yield ["ip", "netns", "exec", NAMES[0], *job, "-hosts", ",".join(HOSTS), "-iface", DEVICE, "-n", "2"]
        finally:
            for name in NAMES:
                subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def environment() -> dict[str, str]:
    """Return an environment in which ranks on one machine exchange messages by TCP, as two hosts do."""
    beside = str(Path(sys.executable).parent)
    return os.environ | {
        "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp", "MPIR_CVAR_NOLOCAL": "1",
        "PATH": f"{beside}:{os.environ['PATH']}",
    }  # fmt: skip
