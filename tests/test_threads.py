"""The CPU's threads: their number, how they get jobs, wait for one another, and end."""

import gc
import os
import threading
import time

import needs
import numpy as np
import pytest
from checks import HANG, ROUNDS, from_python, run_python
from hypothesis import given
from hypothesis import strategies as st
from models import LINES, trained
from numba import njit

from numba_rnnlm import backends
from numba_rnnlm.backends.cpu import atomics, linear, sleeping, team
from numba_rnnlm.backends.cpu.processors import VARIABLE, default_threads
from numba_rnnlm.backends.cpu.team import parallel
from numba_rnnlm.backends.cpu.threads import Pool, cut, split
from numba_rnnlm.errors import ConfigError

FOREVER = HANG * 10**9  # nanoseconds

# Jobs


@given(st.integers(1, 1000), st.integers(1, 9), st.integers(1, 70))
def test_split(size, parts, unit):
    pieces = split(size, parts, unit)
    assert len(pieces) <= parts
    assert [i for first, last in pieces for i in range(first, last)] == list(range(size))
    assert all(first < last for first, last in pieces)
    assert all(first % unit == 0 for first, _ in pieces)


@parallel(gang=True)
def steps_together(part, bounds, steps, board, slot, counters, wanted, patience, lost, holding):
    """Each member counts every step that it is asked to do. A worker does not finish its step before ``holding`` is 0."""
    rank, order, arrivals = 0, 0, 0
    if part == 0:
        sleeping.look(board, slot + team.JOINED, wanted, FOREVER)
    if part > 0:
        rank = team.join(board, slot)
        order = team.follow(board, slot, order)
        while order != team.LEAVE:
            step, parts = team.meaning(order)
            if rank < parts:
                while atomics.read(holding, 0):
                    atomics.pause()
                counters[step, rank] += 1
                team.arrive(board, slot)
            order = team.follow(board, slot, order)
        return
    for step in range(steps):
        parts = team.members(board, slot) if part == 0 and lost[0] == 0 else 1
        if parts > 1:
            team.give(board, slot, step, parts)
        else:
            parts = 1
        counters[step, 0] += parts > 0
        if parts > 1:
            arrivals += parts - 1
            lost[0] += team.gather(board, slot, arrivals, patience)
        for other in range(parts):  # all have done this step before the next begins
            lost[1] += counters[step, other] != 1


@parallel
def count(part, bounds, counters):
    for index in range(bounds[part, 0], bounds[part, 1]):
        counters[index] += 1


def lead(pool, steps, wanted=0, patience=FOREVER):
    """(counters of each step and member, nanoseconds lost)."""
    counters, lost = np.zeros((steps, pool.threads), np.int64), np.zeros(2, np.int64)
    pool.lead(steps_together, pool.threads, steps, counters, wanted, patience, lost, np.zeros(1, np.int64))
    assert lost[1] == 0  # all have done a step before the next begins
    return counters, int(lost[0])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_workers_join_a_gang_and_leave_it(threads):
    pool = Pool(threads)
    assert (lead(pool, 50, wanted=threads - 1)[0] == 1).all()  # all have joined before the first step
    for _ in range(20 * ROUNDS):  # workers that are awake, asleep, or about to sleep
        counters, lost = lead(pool, 3000)
        assert (counters[:, 0] == 1).all()  # the leader does each step, alone if necessary
        assert (np.diff(counters, axis=0) >= 0).all()  # members never leave
        assert lost == 0
        time.sleep(3e-4)


def test_the_leader_works_alone_after_waiting_too_long():
    holding, counters, lost = np.ones(1, np.int64), np.zeros((1000, 2), np.int64), np.zeros(2, np.int64)

    def let_go():
        while counters[0, 0] == 0:  # until the leader has done its share of the first step
            time.sleep(0.001)
        time.sleep(0.3)
        holding.fill(0)

    release = threading.Thread(target=let_go, daemon=True)
    release.start()
    Pool(2).lead(steps_together, 2, len(counters), counters, 1, 1000, lost, holding)
    release.join()
    assert (counters[:, 0] == 1).all()
    assert counters[:, 1].tolist() == [1] + 999 * [0]  # the worker delayed the first step
    assert lost[0] > 0
    assert lost[1] == 0


def test_a_worker_that_comes_too_late_finds_nothing_to_do():
    """Gangs of one step, so short that workers come late, in sequence and together with other jobs."""
    pool = Pool(3)
    for _ in range(3000):
        counters, _ = lead(pool, 1)
        assert counters[0, 0] == 1
        numbers = np.zeros(30, np.int64)
        pool.run(count, cut(30, 3), numbers)
        assert (numbers == 1).all()


def test_gangs_and_other_jobs_of_many_threads_all_finish():
    """More callers than slots, on one pool of three threads."""
    pool, wrong = Pool(3), []

    def call(index):
        for _ in range(100):
            counters = np.zeros(1000, np.int64)
            pool.run(count, cut(1000, 3), counters)
            wrong.extend([] if (counters == 1).all() else [counters])
            if index % 3 == 0:
                counters, _ = lead(pool, 50)
                wrong.extend([] if (counters[:, 0] == 1).all() else [counters])

    callers = [threading.Thread(target=call, args=(index,), daemon=True) for index in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(HANG)
    assert not any(caller.is_alive() for caller in callers), "they wait forever"
    assert not wrong


@parallel
def hold_up(part, bounds, counters, nanoseconds):
    """Delay every part but the first."""
    since = sleeping.clock()
    while part > 0 and sleeping.clock() - since < nanoseconds:
        atomics.pause()
    atomics.add(counters, part, 1)


def test_after_waiting_for_a_slow_worker_jobs_run_alone_for_a_while():
    """As when other processes take a worker's processor; later, jobs are shared again."""
    pool, counters, jobs, last = Pool(2), np.zeros(2, np.int64), 0, time.monotonic() + HANG
    for wanted in (True, False):
        while bool(pool.board[team.JUDGED - 1] > 0) != wanted:
            pool.run(hold_up, cut(2, 2), counters, 3_000_000)
            jobs += 1
            assert time.monotonic() < last, "they are never done alone" if wanted else "they are never shared again"
    assert counters.tolist() == [jobs, jobs]


@pytest.mark.parametrize(("lost", "alone"), [(20_000_000, 1_000_000_000), (3600 * 10**9, 50 * 10**9)])
def test_a_suspended_process_soon_shares_its_jobs_again(lost, alone):
    board = team.new_board(2)
    from_python(team._measure)(board, lost + 5, 5)
    assert board[team.JUDGED - 1] == alone


def test_concurrent_callers_work_alone():
    pool, counters, meeting = Pool(2), np.zeros((4, 2), np.int64), threading.Barrier(4)

    def call(own):
        meeting.wait()
        for _ in range(20):
            pool.run(hold_up, cut(2, 2), own, 1_000_000)

    callers = [threading.Thread(target=call, args=(own,), daemon=True) for own in counters]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(HANG)
    assert counters.tolist() == [[20, 20]] * 4
    assert pool.board[team.CALLERS] == 0


@given(st.integers(0, 200), st.integers(1, 9))
def test_every_part_runs_once(size, parts):
    counters = np.zeros(size + 1, np.int64)
    Pool(2).run(count, cut(size, parts), counters)
    assert counters[:size].tolist() == [1] * size


@njit(nogil=True)
def pass_back_and_forth(numbers, own, other, rounds, patience):
    """Wait for each number of the other side before publishing the next one."""
    for number in range(1, rounds + 1):
        sleeping.advance(numbers, own, number)
        sleeping.await_least(numbers, other, number, patience)


@pytest.mark.parametrize("patience", [0, 1_000_000])
def test_a_number_wakes_its_waiter(patience):
    """While sleeping or polling at each of many numbers."""
    numbers, first, second, rounds = np.zeros(4 * atomics.LINE, np.int64), 0, 2 * atomics.LINE, 5_000
    pass_back_and_forth(numbers.copy(), first, second, 0, 0)  # compiles the function
    threads = [
        threading.Thread(target=pass_back_and_forth, args=(numbers, own, other, rounds, patience), daemon=True)
        for own, other in ((first, second), (second, first))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert not any(thread.is_alive() for thread in threads), "a call was missed"
    assert numbers[[first, second, first + 1, second + 1]].tolist() == [rounds, rounds, 0, 0]


def test_workers_end_with_their_pool():
    pool = Pool(3)
    pool.run(count, cut(30, 3), np.zeros(30, np.int64))
    workers = pool._workers
    assert len(workers) == 2
    del pool
    gc.collect()
    for worker in workers:
        worker.join(HANG)
    assert not any(worker.is_alive() for worker in workers)


def test_a_process_can_end_while_workers_sleep_or_poll():
    for rest in (0, 0.1):
        run_python(f"""
import time
import numpy as np
from numba_rnnlm import LanguageModel
from numba_rnnlm.backends.cpu import decoding, threads
threads.WORTHWHILE = decoding.SHARE = 1
decoding.WARM = decoding.SHORT = 0
models = [LanguageModel(tokenizer=None, vocabulary_size=9, hidden=8, layers=1, threads=number, seed=1) for number in (2, 3)]
for model in models:
    model.generate([1], 50, seed=1)
    model.perplexity(np.arange(200) % 9)
time.sleep({rest})
""")


@needs.fork
def test_a_forked_child_has_its_own_threads():
    run_python(f"""
import os, signal
import numpy as np
from numba_rnnlm.backends.cpu import threads
from numba_rnnlm import LanguageModel
threads.WORTHWHILE = 1
model = LanguageModel(tokenizer=None, vocabulary_size=9, hidden=8, layers=1, threads=2, seed=1)
text = np.arange(200) % 9
before = model.generate([1], 5, seed=1), model.perplexity(text)
child = os.fork()
signal.alarm({HANG})  # rather than wait forever for missing threads
after = model.generate([1], 5, seed=1), model.perplexity(text)
assert before[0].tolist() == after[0].tolist() and before[1] == after[1]
if child:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0)
""")


@needs.fork
def test_the_pool_works_after_an_interrupt():
    run_python("""
import os, signal, threading
import numpy as np
from numba_rnnlm import LanguageModel
from numba_rnnlm.backends.cpu import decoding
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
decoding.SHARE = 1
model = LanguageModel(tokenizer=None, vocabulary_size=9, hidden=8, layers=1, threads=2, seed=1)
model.generate([1], 20_000, seed=1)  # compiles what only a long text needs: a compiler loses an interrupt
want = model.generate([1], 100, seed=1)
for delay in (0.001, 0.01, 0.1, 0.5):
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        model.generate([1], 100_000_000, seed=1)
    except KeyboardInterrupt:
        pass
    else:
        raise SystemExit("it was not interrupted")
    timer.join()
    assert (model.generate([1], 100, seed=1) == want).all()
""")


# Number of threads

V2 = "1 0 8:1 / / rw - ext4 /dev/root rw\n30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "31 1 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n" \
     "32 1 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
INSIDE = V1.replace("0:27 / ", "0:27 /docker/abc ")
GROUPS = [  # /proc/self/cgroup, /proc/self/mountinfo, files below /sys/fs/cgroup, the limit or None
    ("0::/", V2, {}, None),
    ("0::/", V2, {"cpu.max": "max 100000"}, None),
    ("0::/", V2, {"cpu.max": "50000 100000"}, 1),
    ("0::/", V2, {"cpu.max": "250000 100000"}, 3),
    ("0::/", V2, {"cpu.max": "300000 100000"}, 3),
    ("0::/a/b", V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000", "cpu.max": "900000 100000"}, 2),
    ("0::/a/b", V2, {"a/b/cpu.max": "100000 50000", "a/cpu.max": "500000 100000"}, 2),
    ("0::/a", V2, {"b/cpu.max": "100000 100000"}, None),  # another group's
    ("0::/../other", V2, {"cpu.max": "200000 100000"}, 2),  # seen from inside a container
    ("0::/gone", V2, {"cpu.max": "200000 100000"}, 2),
    ("4:memory:/x\n3:cpu,cpuacct:/", V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None),
    ("3:cpu,cpuacct:/a", V1, {"cpu,cpuacct/a/cpu.cfs_quota_us": "150000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, 2),
    ("3:cpu,cpuacct:/a", V1, {"cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 1),
    ("3:cpu,cpuacct:/docker/abc/in", INSIDE,
     {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2),
    ("3:cpu,cpuacct:/elsewhere", INSIDE,
     {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2),
    ("0::/\n3:cpu,cpuacct:/", V1 + V2, {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000",
                                        "cpu.max": "200000 100000"}, 2),
    ("3:cpu,cpuacct:/", V1, {"cpu,cpuacct/cpu.cfs_quota_us": "100000"}, None),
    ("0::/", V2, {"cpu.max": "100000 0"}, None),
    ("0::/", V2, {"cpu.max": "100000"}, None),
    ("0::/", V2, {"cpu.max": "what is this"}, None),
    ("0::/", V2, {"cpu.max": "\udcff\0"}, None),
    ("no colons\n\n:::", V2, {"cpu.max": "100000 100000"}, None),
    ("0::/", "too short - \n\nalso - cgroup2 x y", {"cpu.max": "100000 100000"}, None),
    (None, V2, {"cpu.max": "100000 100000"}, None),
    ("0::/", None, {"cpu.max": "100000 100000"}, None),
]


@pytest.fixture
def many_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)


@pytest.mark.parametrize(("groups", "mounts", "files", "limit"), GROUPS)
def test_quotas_of_control_groups(groups, mounts, files, limit, tmp_path, many_processors):
    system = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
    for name, text in (system | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
        if text is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    assert default_threads(tmp_path, {}) == (limit or 16)
    assert default_threads(tmp_path, {"OMP_NUM_THREADS": "2"}) == min(limit or 16, 2)
    assert default_threads(tmp_path, {VARIABLE: "40"}) == 40


@given(st.lists(st.tuples(st.integers(1, 10**7), st.integers(1000, 10**6)), max_size=4), st.text(max_size=9), st.text(max_size=9))
def test_the_smallest_limit_counts_whatever_else_the_files_contain(tmp_path_factory, quotas, name, noise):
    root = tmp_path_factory.mktemp("root")
    path = "/".join(str(level) for level in range(1, len(quotas)))
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"{noise}\n0::/{path}\n", encoding="utf-8")
    (root / "proc/self/mountinfo").write_text(f"{noise} - {name}\n{V2}", encoding="utf-8")
    folder, none = root / "sys/fs/cgroup", default_threads(tmp_path_factory.mktemp("nothing"), {})
    for level, (quota, period) in enumerate(quotas):
        folder /= str(level) if level else ""
        folder.mkdir(parents=True)
        (folder / "cpu.max").write_text(f"{quota} {period}\n")
    limits = [int(np.ceil(quota / period)) for quota, period in quotas]
    assert default_threads(root, {}) == min([none, *limits])


@pytest.mark.parametrize(("environment", "threads"), [
    ({"OMP_NUM_THREADS": "3"}, 3), ({"NUMBA_NUM_THREADS": "5"}, 5), ({"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "2"}, 2),
    ({"OMP_NUM_THREADS": " 4 , 2"}, 4), ({"OMP_NUM_THREADS": "64"}, 16), ({"OMP_NUM_THREADS": "0"}, 16), ({"OMP_NUM_THREADS": ""}, 16),
    ({"OMP_NUM_THREADS": "many"}, 16), ({"OMP_NUM_THREADS": "-1"}, 16), ({"OMP_NUM_THREADS": "2.5"}, 16), ({"OMP_NUM_THREADS": "²"}, 16), ({"OMP_NUM_THREADS": "9" * 5000}, 16),
    ({VARIABLE: "7", "OMP_NUM_THREADS": "3"}, 7), ({VARIABLE: " ", "OMP_NUM_THREADS": "3"}, 3),
])  # fmt: skip
def test_variables_of_other_libraries_count(environment, threads, tmp_path, many_processors):
    assert default_threads(tmp_path, environment) == threads


def test_number_of_threads_from_the_environment(monkeypatch):
    monkeypatch.setenv(VARIABLE, "5")
    assert default_threads() == 5
    assert backends.get("cpu").threads == 5
    monkeypatch.delenv(VARIABLE)
    assert 1 <= default_threads() <= (os.cpu_count() or 1)
    for bad in ("0", "-1", "two", "²", "1,2", "1025", "٣", "9" * 5000):
        monkeypatch.setenv(VARIABLE, bad)
        with pytest.raises(ConfigError, match=rf"{VARIABLE} is '{bad[:9]}.*, expected a whole number at least 1 and at most 1,024\.") as caught:
            default_threads()
        assert len(str(caught.value)) < 2000


def test_caches_by_size_are_bounded():
    """A process that serves requests or searches settings sees ever new sizes, so everything cached per size has a limit."""
    caches = [each for each in gc.get_objects() if type(each) is type(cut) and str(each.__module__).startswith("numba_rnnlm.")]
    for each in (cut, linear.shares):
        each.cache_clear()
    before = [cache.cache_info().currsize for cache in caches]
    model, line, cpu, W = trained("char"), LINES.replace("\n", " ") * 10, backends.get("cpu"), np.ones((3, 20), np.float32)
    for size in range(1, 400):
        model.score(line[:size])
        model.evaluate(line[:size] + "\n")
        model.generate(line[:size], length=size % 7)
        cpu.project(np.ones((size, 3), np.float32), W, None, np.empty((size, 20), np.float32))
    grown = {cache for cache, size in zip(caches, before, strict=True) if cache.cache_info().currsize >= size + 100}
    assert {cut, linear.shares} <= grown and all(cache.cache_info().maxsize for cache in grown)
