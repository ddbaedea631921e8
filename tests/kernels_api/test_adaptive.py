"""Adaptive threads: the number follows the load of other programs, at little cost, on simulated machines and here."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tinygpt import kernels
from tinygpt.kernels import adaptive, load, threads
from tinygpt.kernels.adaptive import Adaptive

CORES = 2


class Machine:
    """A simulated processor with two cores. A step takes 1 ms on one thread, and `slow` ms if a thread lacks a core."""

    def __init__(self, accounts=True, two=0.6, slow=5.0):
        self.now, self.busy, self.own, self.neighbours = 0.0, 0.0, 0.0, 0.0
        self.accounts, self.two, self.slow = accounts, two, slow
        self.counts = []

    def clock(self):
        return self.now

    def read(self):
        return load.Reading(self.now, self.busy, self.own) if self.accounts else None

    def run(self, control, seconds):
        """Repeat steps for `seconds` of simulated time; return their number."""
        end, steps = self.now + seconds, 0
        while self.now < end:
            n = threads.get_num_threads()
            milliseconds = 1.0 if n == 1 else self.two if n + self.neighbours <= CORES else self.slow
            with control.step():
                self.now += milliseconds / 1000
            wanted = n + self.neighbours
            self.own += n * min(1, CORES / wanted) * milliseconds / 1000
            self.busy += min(CORES, wanted) * milliseconds / 1000
            self.counts.append(n)
            steps += 1
        return steps


def interrupted(machine, loop):
    """Run a step of 100 s that Ctrl-C ends."""
    with loop.step():
        machine.now += 100
        raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _two_automatic_threads(monkeypatch):
    before, automatic = threads.get_num_threads(), threads.is_automatic()
    monkeypatch.setattr(threads, "_automatic", True)
    monkeypatch.setattr(adaptive, "_last", None)
    monkeypatch.setattr(threads, "affinity", lambda: CORES)
    threads.use(CORES)
    yield
    threads.use(before)
    monkeypatch.setattr(threads, "_automatic", automatic)


def control(machine, **options):
    return Adaptive(clock=machine.clock, accounts=machine.read, **options)


def test_quiet_machine_keeps_all_threads():
    """Catches trials of fewer threads on an undisturbed machine."""
    machine = Machine()
    with control(machine) as loop:
        machine.run(loop, 60)
    assert set(machine.counts) == {CORES}


@pytest.mark.parametrize("accounts", [True, False], ids=["accounts", "step times alone"])
def test_neighbour_arrives_and_leaves(accounts):
    """Catches too many threads beside another program, and too few after it has ended."""
    machine, lines = Machine(accounts), []
    with control(machine, tell=lines.append) as loop:
        machine.run(loop, 5)
        machine.neighbours = 1.0
        steps = machine.run(loop, 30)
        assert steps / 30_000 > 0.95  # of the steps of a fixed single thread
        machine.neighbours = 0.0
        machine.run(loop, 90)
    assert machine.counts[-1000:] == [CORES] * 1000
    assert len(lines) == 2
    assert lines[0].endswith(": continuing with 1 thread")
    assert lines[1] == "the processors are free again: continuing with 2 threads"


@pytest.mark.parametrize("accounts", [True, False], ids=["accounts", "step times alone"])
def test_changes_are_reported_once(accounts):
    """Catches a log that fills up while another program comes and goes."""
    machine, lines = Machine(accounts), []
    with control(machine, tell=lines.append) as loop:
        for _ in range(5):
            machine.neighbours = 1.0
            machine.run(loop, 10)
            machine.neighbours = 0.0
            machine.run(loop, 70)
    assert len(lines) == 2


@pytest.mark.parametrize("slow", [5.0, 3000.0], ids=["short steps", "steps of 3 s"])
def test_failed_trials_cost_at_most_two_percent(slow):
    """Catches trials repeated too soon: without accounts, every trial beside another program fails.

    The bound allows for the last trial, because no time has passed since to make up for it.
    """
    machine = Machine(accounts=False, slow=slow)
    with control(machine) as loop:
        machine.run(loop, 5)
        machine.neighbours = 1.0
        machine.run(loop, 1000)
    last = max(1.2 * adaptive.WINDOW, slow / 1000)
    assert 0 < loop.seconds_lost <= 0.02 * machine.now + last


def test_small_neighbour_changes_nothing():
    """Catches fewer threads because of a program that takes a tenth of a core."""
    machine = Machine()
    machine.neighbours = 0.1
    machine.slow = machine.two
    with control(machine) as loop:
        machine.run(loop, 10)
    assert set(machine.counts) == {CORES}


def test_next_loop_starts_with_the_last_number():
    """Catches short loops, such as one reply of a chat, that each learn again that the machine is busy."""
    machine = Machine()
    machine.neighbours = 1.0
    with control(machine) as loop:
        machine.run(loop, 2)
        assert threads.get_num_threads() == 1
    assert threads.get_num_threads() == CORES
    with control(machine):
        assert threads.get_num_threads() == 1
    machine.now += adaptive.REMEMBERED + 1
    with control(machine):
        assert threads.get_num_threads() == CORES


def test_loops_inside_loops_restore_once():
    """Catches an evaluation within training that restores all threads for the rest of the training."""
    machine = Machine()
    machine.neighbours = 1.0
    with control(machine) as outer:
        machine.run(outer, 2)
        with control(machine) as inner:
            machine.run(inner, 1)
        assert threads.get_num_threads() == 1
    assert threads.get_num_threads() == CORES


def test_a_reduction_in_an_inner_loop_stays_for_the_outer_one():
    """Catches an inner loop that restores all threads although the other program still runs."""
    machine = Machine()
    with control(machine) as outer:
        machine.run(outer, 1)
        with control(machine) as inner:
            machine.neighbours = 1.0
            machine.run(inner, 1)
        assert threads.get_num_threads() == 1
    assert threads.get_num_threads() == CORES


def test_step_that_raises_is_not_counted():
    """Catches an interrupted step counted as a slow one."""
    machine = Machine(accounts=False)
    with control(machine) as loop:
        machine.run(loop, 1)
        with pytest.raises(KeyboardInterrupt):
            interrupted(machine, loop)
        machine.run(loop, 1)
    assert set(machine.counts) == {CORES}


def test_fixed_number_is_kept():
    """Catches a number that the user fixed and the loop changes."""
    machine = Machine()
    machine.neighbours = 1.0
    threads.set_num_threads(2)
    with control(machine) as loop:
        machine.run(loop, 5)
    assert set(machine.counts) == {2}


def test_rungs_whose_bits_depend_on_threads_keep_their_number():
    """Catches a run on the numpy rung whose results depend on the load of the machine."""
    machine = Machine()
    machine.neighbours = 1.0
    with kernels.use("simd", matmul="numpy"), control(machine) as loop:
        machine.run(loop, 5)
    assert set(machine.counts) == {CORES}


def test_auto_can_be_restored():
    """Catches set_num_threads("auto") that leaves the number fixed, and a variable that does not fix it."""
    threads.set_num_threads(1)
    assert not threads.is_automatic()
    code = "from tinygpt.kernels import threads; threads.set_num_threads('auto'); print(threads.is_automatic())"
    for given, expected in (({}, "True"), ({"TINYGPT_NUM_THREADS": "1"}, "False")):
        environment = {k: v for k, v in os.environ.items() if k != "TINYGPT_NUM_THREADS"} | given
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.strip() == expected


def test_accounts_of_others():
    """Catches own time counted as others', a division by zero time, and a failure without accounts."""
    one, two = load.Reading(0.0, 10.0, 4.0), load.Reading(2.0, 13.0, 6.0)
    assert load.taken_by_others(one, two) == pytest.approx(0.5)
    assert load.taken_by_others(two, two) is None
    assert load.taken_by_others(None, two) is None
    assert load.taken_by_others(one, load.Reading(2.0, 11.0, 6.0)) == 0.0


def test_accounts_are_read_for_the_allowed_processors(monkeypatch, tmp_path):
    """Catches guest time counted twice, disk waits counted as busy, and the wrong processor."""
    stat = tmp_path / "stat"
    stat.write_text("cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 4 800 16 32 64 128 256 512\ncpu1 7 7 7 7 7 7 7 7 7 7\nintr 5\n")
    monkeypatch.setattr(load, "ACCOUNTS", stat)
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(load.os, "sysconf", lambda name: 100)
    assert load.read().busy == pytest.approx((1 + 2 + 4 + 32 + 64 + 128) / 100)
    stat.write_text("cpu0 0 0 0 0 0 0 0 0 0 0\n")
    assert load.read() is None
    monkeypatch.setattr(load, "ACCOUNTS", tmp_path / "none")
    assert load.read() is None


def test_bits_do_not_depend_on_changes_between_steps():
    """Catches a result that depends on the number of threads of each step."""
    from tinygpt import GPT, GPTConfig, optim

    tokens = np.random.default_rng(0).integers(0, 50, (2, 17))

    def train(counts):
        model = GPT(GPTConfig(vocab_size=50, block_size=16, n_layer=2, n_head=2, n_embd=64), seed=0)
        optimizer = optim.AdamW(model.parameters(), lr=1e-2)
        for n in counts:
            threads.use(n)
            optimizer.zero_grad()
            model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
            optimizer.step()
        return np.concatenate([p.data.ravel() for p in model.parameters()])

    np.testing.assert_array_equal(train([1, 1, 1, 1]), train([2, 1, 3, 2]))


def undisturbed_with(shares, values):
    """Run `undisturbed` with several tries, during which others take the given shares of a processor."""
    readings, busy = [], 0.0
    for i, share in enumerate(shares):
        # 100 s each, so that rounding to ticks is negligible on a machine with any number of processors.
        readings += [load.Reading(200.0 * i, busy, 0.0), load.Reading(200.0 * i + 100, busy + 100 * share, 0.0)]
        busy += 100 * share
    given, tries = iter(readings), iter(values)
    return load.undisturbed(lambda: next(tries), accounts=lambda: next(given))


@pytest.mark.skipif(load.read() is None, reason="this operating system keeps no accounts of its processors")
def test_disturbed_measurements_are_repeated_then_marked():
    """Catches a disturbed peak reported as the machine's, and one try too many."""
    quiet = undisturbed_with([0.1], [5.0])
    assert (quiet, quiet.disturbed) == (5.0, False)
    later = undisturbed_with([0.9, 0.0], [9.0, 4.0])
    assert (later, later.disturbed) == (4.0, False)
    never = undisturbed_with([0.9, 0.9, 0.9], [3.0, 5.0, 4.0])
    assert (never, never.disturbed) == (5.0, True)


def test_short_measurements_are_not_called_disturbed(monkeypatch):
    """Catches one tick of rounding taken for another program."""
    readings = iter([load.Reading(0.0, 0.0, 0.0), load.Reading(0.01, 0.01, 0.0)])
    assert not load.undisturbed(lambda: 1.0, accounts=lambda: next(readings)).disturbed


def test_load_during_pauses_is_ignored():
    """Catches a loop with fewer threads because others worked while it waited for its user."""
    machine = Machine()
    with control(machine) as loop:
        for _ in range(20):
            machine.run(loop, 0.15)
            machine.now += 1.0
            machine.busy += CORES * 1.0
    assert set(machine.counts) == {CORES}
