"""Threads: how many, who limits them, what a fork does to them and to locks."""

import math
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import types

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from rmsprop_fast import RMSprop, threads
from rmsprop_fast.cpu import _platform

SIZE = 2**16  # elements; 65,536 are above what a step keeps on one thread

needs_openmp = pytest.mark.skipif(
    not _platform.OPENMP, reason="this build has no OpenMP: its loops are serial"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def run(script, *arguments, **environment):
    """Return what a script prints in a Python of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def team_of(opt, size=SIZE):
    """Make a step over `size` elements; return the number of threads that ran it."""
    opt.apply_gradients([(np.ones(size), np.ones(size))])
    return opt._step.team


# --- How many -------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@needs_openmp
def test_num_threads_is_taken_literally(n):
    assert threads.count(n) == n
    assert team_of(RMSprop(num_threads=n)) == n


@needs_openmp
def test_num_threads_can_be_set_and_reset():
    opt = RMSprop(num_threads=3)
    assert team_of(opt) == 3
    opt.num_threads = 2
    assert team_of(opt) == 2
    opt.num_threads = None
    assert team_of(opt) == threads.count()


@needs_openmp
def test_small_work_stays_on_one_thread():
    opt = RMSprop(num_threads=4)
    assert team_of(opt, 64) == 1
    assert team_of(opt) == 4


@needs_openmp
def test_many_variables_are_one_large_step():
    # Each is small work; together they are as much as one variable of 262,144.
    opt = RMSprop(num_threads=3)
    opt.apply_gradients([(np.ones(1024), np.ones(1024)) for _ in range(256)])
    assert opt._step.team == 3


@needs_openmp
def test_many_tiny_variables_stay_on_one_thread():
    # Passing a task to another thread costs more than its 64 elements.
    opt = RMSprop(num_threads=3)
    opt.apply_gradients([(np.ones(64), np.ones(64)) for _ in range(2000)])
    assert opt._step.team == 1


COUNT = """
    import os, sys
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {int(cpu) for cpu in sys.argv[1].split(",")})
    import numpy as np
    from rmsprop_fast import RMSprop, threads
    opt = RMSprop()
    opt.apply_gradients([(np.ones(2**16), np.ones(2**16))])
    print(threads.count(), opt._step.team)
"""


@pytest.mark.parametrize("n", ["1", "3"])
@needs_openmp
def test_omp_num_threads_decides_when_num_threads_is_not_given(n):
    assert run(COUNT, OMP_NUM_THREADS=n) == [n, n]


@needs_openmp
def test_num_threads_beats_omp_num_threads():
    script = """
        import numpy as np
        from rmsprop_fast import RMSprop, threads
        opt = RMSprop(num_threads=2)
        opt.apply_gradients([(np.ones(2**16), np.ones(2**16))])
        print(threads.count(2), opt._step.team)
    """
    assert run(script, OMP_NUM_THREADS="3") == ["2", "2"]


@needs_openmp
def test_the_machine_decides_when_nobody_else_does():
    count, team = run(COUNT)
    assert count == team == str(threads._allowed_cpus())


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks"
)
@needs_openmp
def test_the_affinity_mask_limits_the_team():
    cpu = str(min(os.sched_getaffinity(0)))
    assert run(COUNT, cpu) == ["1", "1"]


@needs_openmp
def test_threadpoolctl_limits_the_team():
    opt = RMSprop()
    free = threads.count()
    with threadpool_limits(limits=1, user_api="openmp"):
        assert threads.count() == 1
        assert team_of(opt) == 1
    assert threads.count() == free
    assert team_of(opt) == free


@needs_openmp
def test_num_threads_beats_threadpoolctl():
    with threadpool_limits(limits=1, user_api="openmp"):
        assert team_of(RMSprop(num_threads=2)) == 2


# --- Control groups -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "400000 100000"}, 4.0),
        (
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "50000\n"}, math.inf),
        ({"cpu.max": ""}, math.inf),
        ({"cpu.max": "many 100000"}, math.inf),
        ({"cpu.max": "1 2 3"}, math.inf),
        ({}, math.inf),
    ],
    ids=["v2-none", "v2", "v2-whole", "v1-none", "v1", "v1-half", "empty", "text"]
    + ["three", "missing"],
)
def test_the_quota_of_a_control_group_is_read_in_cpus(tmp_path, files, expected):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert threads._cgroup_cpus(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [(math.inf, 8), (20.0, 8), (3.0, 3), (1.5, 2), (0.25, 1)],
    ids=["none", "above-affinity", "whole", "rounded-up", "less-than-one"],
)
def test_quota_and_affinity_bound_the_number_of_cpus(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "_cgroup_cpus", lambda _: quota)
    assert threads._allowed_cpus() == expected


def test_without_affinity_masks_all_cpus_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(threads, "_cgroup_cpus", lambda _: math.inf)
    assert threads._allowed_cpus() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads._allowed_cpus() == 1


@pytest.fixture
def machine(monkeypatch):
    """Return what a made-up machine says: its clock and its quota, to be set."""
    says = types.SimpleNamespace(time=100.0, quota=2.0, asked=0)

    def quota(_):
        says.asked += 1
        return says.quota

    cpus = set(range(8))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cpus, raising=False)
    monkeypatch.setattr(threads, "_cgroup_cpus", quota)
    monkeypatch.setattr(threads.time, "monotonic", lambda: says.time)
    monkeypatch.setattr(threads, "_omp_decides", False)
    monkeypatch.setattr(threads, "_fresh_until", -math.inf)
    monkeypatch.setattr(threads, "_allowed", 0)
    monkeypatch.setattr(threads, "_listeners", [])
    monkeypatch.setattr(_platform, "max_threads", lambda: 8)
    return says


@needs_openmp
def test_a_quota_limits_the_team_unless_num_threads_is_given(machine):
    machine.quota = 1.0
    assert threads.count() == 1
    assert threads.count(3) == 3


@needs_openmp
def test_a_quota_that_changes_limits_the_team_a_second_later(machine):
    assert threads.count() == 2
    machine.quota = 5.0
    machine.time += threads.FRESH - 0.01
    assert threads.count() == 2
    machine.time += 0.01
    assert threads.count() == 5
    assert threads.FRESH == 1.0


@needs_openmp
def test_the_machine_is_asked_once_a_second_however_many_steps_are_made(machine):
    for _ in range(1000):
        threads.count()
    assert machine.asked == 1
    machine.time += threads.FRESH
    threads.count()
    assert machine.asked == 2


@needs_openmp
def test_the_machine_is_not_asked_when_omp_num_threads_decides(machine, monkeypatch):
    monkeypatch.setattr(threads, "_omp_decides", True)
    assert threads.limit() is None
    assert threads.count() == 8  # what OpenMP says
    assert machine.asked == 0


def test_listeners_hear_of_another_limit_and_of_nothing_else(machine):
    heard = []
    threads.call_on_change(lambda: heard.append(threads.limit()))
    threads.limit()
    machine.time += threads.FRESH
    threads.limit()
    assert heard == []
    machine.quota = 3.0
    machine.time += threads.FRESH
    threads.limit()
    assert heard == [3]


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks"
)
@needs_openmp
def test_a_mask_set_after_the_import_limits_the_team():
    script = """
        import os
        import numpy as np
        from rmsprop_fast import RMSprop, threads
        opt = RMSprop()
        grad, var = np.ones(2**16), np.ones(2**16)
        opt.apply_gradients([(grad, var)])
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        threads._fresh_until = 0  # a second passes
        opt.apply_gradients([(grad, var)])
        print(threads.count(), opt._step.team)
    """
    assert run(script) == ["1", "1"]


def test_a_build_without_openmp_has_one_thread(monkeypatch):
    monkeypatch.setattr(_platform, "OPENMP", 0)
    assert threads.count() == 1
    assert threads.count(3) == 1


# --- Fork: in a Python of its own, where nothing else has started threads -------------

FORK = """
    import os, signal, sys, threading
    import numpy as np
    from rmsprop_fast import RMSprop, threads

    def steps(opt, var, n):
        for k in range(n):
            opt.apply_gradients([(np.cos(np.arange(2.0**16) * (k + 1)), var)])
        return var.tobytes()

    def in_child(work):
        '''Return what `work` returns in a forked child, or None if it hangs.'''
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # ends a child that hangs
            code = 1
            try:
                os.close(read)
                with open(write, "wb") as pipe:
                    pipe.write(work())
                code = 0
            finally:
                os._exit(code)
        os.close(write)
        with open(read, "rb") as pipe:
            result = pipe.read()
        _, status = os.waitpid(child, 0)
        return result if status == 0 else None
"""


@needs_fork
def test_a_forked_child_makes_the_same_steps_as_its_parent():
    script = (
        FORK
        + """
    opt, var = RMSprop(0.01, momentum=0.5, num_threads=2), np.ones(2**16)
    steps(opt, var, 2)
    in_fork = in_child(lambda: steps(opt, var, 3))
    in_parent = steps(opt, var, 3)  # the parent's threads come back, too
    print(in_fork == in_parent, opt.iterations, opt._step.team)
    """
    )
    team = "2" if _platform.OPENMP else "1"
    assert run(script) == ["True", "5", team]


@needs_fork
@needs_openmp
def test_a_forked_child_has_threads_again():
    script = (
        FORK
        + """
    opt, var = RMSprop(num_threads=2), np.ones(2**16)
    steps(opt, var, 1)
    def work():
        steps(opt, var, 1)
        return b"%d" % opt._step.team
    print(in_child(work).decode())
    """
    )
    assert run(script) == ["2"]


@needs_fork
def test_a_fork_of_a_fork_does_not_hang():
    script = (
        FORK
        + """
    opt, var = RMSprop(num_threads=2), np.ones(2**16)
    steps(opt, var, 1)
    def work():
        steps(opt, var, 1)
        return in_child(lambda: steps(opt, var, 1))
    there = in_child(work)
    print(there == steps(opt, var, 1), there == steps(opt, var, 1))
    """
    )
    # steps(opt, var, 1) always has the same gradient: the second is the grandchild's.
    assert run(script) == ["False", "True"]


@needs_fork
def test_a_lock_held_by_another_thread_is_renewed_in_the_child():
    script = (
        FORK
        + """
    opt, var = RMSprop(), np.ones(2**16)
    steps(opt, var, 1)
    held, done = threading.Event(), threading.Event()

    def hold():
        with opt._lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    before = opt._lock
    in_fork = in_child(lambda: steps(opt, var, 1))
    same = opt._lock is before
    done.set()
    thread.join()
    print(in_fork == steps(opt, var, 1), same)
    """
    )
    assert run(script) == ["True", "True"]


@needs_fork
def test_a_fork_amid_another_thread_s_steps_does_not_hang():
    script = (
        FORK
        + """
    opt, var = RMSprop(num_threads=2), np.ones(2**16)
    stop = threading.Event()

    def train():
        while not stop.is_set():
            opt.apply_gradients([(np.ones(2**16), var)])

    thread = threading.Thread(target=train)
    thread.start()
    mine = np.ones(2**16)
    for _ in range(5):
        print(in_child(lambda: b"%d" % len(steps(opt, mine, 2))))
    stop.set()
    thread.join()
    """
    )
    assert run(script) == ["b'524288'"] * 5  # 2**16 elements of 8 bytes


@needs_fork
def test_the_lock_of_a_copy_is_renewed_in_the_child():
    script = (
        FORK
        + """
    import copy
    opt, var = RMSprop(), np.ones(2**16)
    steps(opt, var, 1)
    twin = copy.deepcopy(opt)
    held, done = threading.Event(), threading.Event()

    def hold():
        with twin._lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    in_fork = in_child(lambda: steps(twin, var, 1))
    done.set()
    thread.join()
    print(in_fork == steps(opt, var, 1))
    """
    )
    assert run(script) == ["True"]


@needs_fork
def test_a_child_whose_parent_could_not_end_its_threads_stays_on_one():
    script = (
        FORK
        + """
    from rmsprop_fast.cpu import _platform
    _platform.end_threads = lambda: False
    def work():
        return b"%d %d" % (threads.count(), threads.count(3))
    print(in_child(work).decode(), threads.count(3))
    """
    )
    n = "3" if _platform.OPENMP else "1"
    assert run(script) == ["1", "1", n]


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork here"
)
def test_a_pool_of_forked_workers_does_not_hang():
    script = """
        import multiprocessing
        import numpy as np
        from rmsprop_fast import RMSprop

        def train(k):
            opt, var = RMSprop(0.01, num_threads=2), np.ones(2**16)
            for _ in range(3):
                opt.apply_gradients([(np.full(2**16, k + 1.0), var)])
            return var.tobytes()

        here = [train(k) for k in range(3)]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map_async(train, range(3)).get(30) == here)
    """
    assert run(script) == ["True"]


def test_optimizers_can_be_collected():
    import gc
    import weakref

    opt = RMSprop()
    alive = weakref.ref(opt)
    del opt
    gc.collect()
    assert alive() is None  # the list of locks to renew holds it weakly


def test_steps_in_one_thread_do_not_wait_for_another_optimizer(any_work_is_shared):
    one, other = RMSprop(), RMSprop()
    with one._lock:
        thread = threading.Thread(target=team_of, args=(other, 64), daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
