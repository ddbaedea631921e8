"""The launchers for Slurm, for a file of hosts and for Kubernetes: run with a stand-in for mpiexec, or parsed."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tinygpt.cli.app import build_app, config_files

FOLDER = Path(__file__).parents[2] / "launchers"
# Notes its arguments; with WAIT it trains until SIGINT, as tinygpt does under mpiexec.
STAND_IN = """#!/bin/bash
printf '%s\\n' "$@" > "$NOTES/$(basename $0)"
if [ "${WAIT-}" ] && [ "$(basename $0)" = mpiexec ]; then
    trap 'exit 130' INT
    while :; do sleep 0.05; done
fi
"""
FLAGS = ["--data", "a folder", "--layers", "3"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that starts a launcher with stand-ins for mpiexec and scontrol, and one that reads their arguments."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("mpiexec", "scontrol"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    env = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "NOTES": str(tmp_path)}
    env |= {"SLURM_NTASKS": "4", "SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_ID": "77"}

    jobs = []

    def start(*words, **more):
        jobs.append(subprocess.Popen(list(map(str, words)), env=env | more))
        return jobs[-1]

    def noted(name):
        path = tmp_path / name
        return path.read_text().splitlines() if path.exists() else None

    yield start, noted
    for job in jobs:
        job.kill()
        job.wait()


def split(words):
    """Split the arguments of mpiexec into its own and the command that all ranks run."""
    at = words.index("tinygpt")
    return words[:at], words[at:]


def accepted(command):
    """Parse a command of tinygpt as the command line does, without running it; returns its settings."""
    assert command[0] == "tinygpt"
    app = build_app(command[1])
    app.config = config_files(command[1:])
    _, bound, _ = app.parse_args(command[1:], exit_on_error=False, print_error=False)
    bound.args[0].validate()
    return bound.args[0]


def resumable(out):
    out.mkdir()
    (out / "run.toml").write_text(f'out = "{out}"\nlayers = 3\n')


def test_slurm_starts_one_rank_for_each_task(run, tmp_path):
    """Catches a flag that is lost, split or unknown, and ranks that all start on one node."""
    start, noted = run
    assert start("bash", FOLDER / "slurm.sbatch", tmp_path / "out", *FLAGS).wait(30) == 0
    own, command = split(noted("mpiexec"))
    assert own == ["-bootstrap", "slurm", "-n", "4", "-ppn", "1"]
    settings = accepted(command)
    assert (settings.corpus.data, settings.model.layers) == (["a folder"], 3)
    assert settings.output.out == str(tmp_path / "out")
    assert noted("scontrol") is None


def test_slurm_saves_and_queues_the_job_again(run, tmp_path):
    """Catches a signal that ends the batch script and leaves the ranks, and a run that is started over afterwards."""
    start, noted = run
    resumable(tmp_path / "out")
    job = start("bash", FOLDER / "slurm.sbatch", tmp_path / "out", *FLAGS, WAIT="1")
    end = time.monotonic() + 30
    while noted("mpiexec") is None and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)  # until the script waits
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 130
    assert noted("scontrol") == ["requeue", "77"]
    settings = accepted(split(noted("mpiexec"))[1])
    assert settings.output.resume
    assert settings.model.layers == 3


def test_slurm_directives():
    """Catches a directive that Slurm does not read, because it comes after a command, and a signal nobody handles."""
    lines = (FOLDER / "slurm.sbatch").read_text().splitlines()
    found = dict(re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(.*))?", line).groups() for line in lines if "#SBATCH" in line)
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any("#SBATCH" in line for line in lines[first:])
    assert found["signal"] == "B:USR1@120"
    assert found["ntasks-per-node"] == "1"
    assert {"nodes", "cpus-per-task", "time", "requeue"} <= found.keys()


def test_hosts_starts_one_rank_for_each_line(run, tmp_path):
    """Catches a comment that is counted as a host, and a run that is started over instead of resumed."""
    start, noted = run
    hosts = tmp_path / "hosts"
    hosts.write_text("# our machines\nfirst\n\n10.0.0.2\nthird\n")
    assert start(FOLDER / "hosts.sh", hosts, tmp_path / "out", *FLAGS).wait(30) == 0
    own, command = split(noted("mpiexec"))
    assert own == ["-f", str(hosts), "-ppn", "1", "-n", "3"]
    assert accepted(command).model.layers == 3
    resumable(tmp_path / "out")
    assert start(FOLDER / "hosts.sh", hosts, tmp_path / "out", *FLAGS).wait(30) == 0
    assert split(noted("mpiexec"))[1] == ["tinygpt", "train", "--out", str(tmp_path / "out"), "--resume"]


def test_the_manifest_of_kubernetes(run, tmp_path):
    """Catches a manifest that is no YAML, a number of ranks that is not that of the workers, and unknown flags."""
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((FOLDER / "mpijob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    assert job["spec"]["mpiImplementation"] == "MPICH"
    replicas = job["spec"]["mpiReplicaSpecs"]
    assert replicas.keys() == {"Launcher", "Worker"}
    (launcher,), (worker,) = (replicas[name]["template"]["spec"]["containers"] for name in ("Launcher", "Worker"))
    assert launcher["image"] == worker["image"]
    assert launcher["volumeMounts"] == worker["volumeMounts"]
    start, noted = run
    assert start(*launcher["command"], *launcher["args"]).wait(30) == 0
    own, command = split(noted("mpiexec"))
    ranks = job["spec"]["slotsPerWorker"] * replicas["Worker"]["replicas"]
    assert own == ["-n", str(ranks), "-ppn", str(job["spec"]["slotsPerWorker"])]
    settings = accepted(command)
    assert settings.optimisation.batch % ranks == 0
    assert settings.output.out.startswith(launcher["volumeMounts"][0]["mountPath"])
    assert shlex.split(launcher["args"][0])[0].startswith("flags=")
