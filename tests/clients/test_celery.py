"""Celery with its broker and its result backend on the cluster: producers, real worker processes and results on three nodes."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import started, wait_until

HERE = pathlib.Path(__file__).parent
ANSWER_SECONDS = 30

# A user for Celery: its keys all carry the prefix; its channels are the fan-out of events and control, and results' keys.
POLICY = """\
user default on >admin-password ~* &* +@all
user celery on >celery-password ~work:* &* +@all -@admin -@dangerous +info +keys
"""


def url(cluster, node):
    return f"redis://celery:celery-password@127.0.0.1:{cluster.ports[node - 1]}/0"


@pytest.fixture(scope="module")
def cluster():
    yield from started(POLICY)


class Worker:
    """A worker process of its own, and what it prints."""

    def __init__(self, cluster, name, node, pool="threads", queue="story"):
        self.name = f"{name}@here"
        self.log = open(cluster.folder / f"{name}.log", "w")
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-n", self.name, "-P", pool, "-c", "4", "-Q", queue, "-E", "--loglevel", "INFO"]
        environment = {
            **os.environ, "STORY_PREFIX": "work:", "STORY_BROKER": url(cluster, node), "STORY_BACKEND": url(cluster, node % 3 + 1),
            "PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        }
        self.process = subprocess.Popen(command, env=environment, cwd=cluster.folder, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def stop(self, with_signal=signal.SIGTERM):
        self.process.send_signal(with_signal)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def tasks(cluster):
    """The application as a producer on node 1 that reads results from node 3."""
    os.environ.update(STORY_PREFIX="work:", STORY_BROKER=url(cluster, 1), STORY_BACKEND=url(cluster, 3))
    import celery_app

    yield celery_app
    celery_app.app.close()


@pytest.fixture(scope="module")
def workers(cluster, tasks):
    """Workers on nodes 2 and 3, both up."""
    both = [Worker(cluster, "ada", 2), Worker(cluster, "grace", 3)]
    try:
        wait_until(lambda: len(tasks.app.control.ping(timeout=0.5)) == 2, seconds=60)
        yield both
    except AssertionError:
        for worker in both:
            worker.log.flush()
            print((cluster.folder / f"{worker.name.split('@')[0]}.log").read_text())
        raise
    finally:
        for worker in both:
            worker.stop()


def test_a_task_is_done_and_its_result_read(tasks, workers):
    assert tasks.add.delay(2, 3).get(timeout=ANSWER_SECONDS) == 5


def test_a_failure_comes_back_as_itself(tasks, workers):
    with pytest.raises(ValueError, match="not today"):
        tasks.refuse.delay("not today").get(timeout=ANSWER_SECONDS)


def test_a_group_is_shared_by_the_workers(tasks, workers):
    from celery import group

    names = group(tasks.where.s() for _ in range(40)).apply_async().get(timeout=ANSWER_SECONDS)
    assert set(names) == {worker.name for worker in workers}


def test_a_chord_runs_its_body_once_all_are_done(tasks, workers):
    from celery import chord

    for size in (1, 10, 30):
        result = chord((tasks.add.s(number, number) for number in range(size)), tasks.total.s()).apply_async()
        assert result.get(timeout=ANSWER_SECONDS) == sum(2 * number for number in range(size))


def test_a_chain(tasks, workers):
    from celery import chain

    assert chain(tasks.add.s(1, 1), tasks.add.s(10), tasks.add.s(100)).apply_async().get(timeout=ANSWER_SECONDS) == 112


def test_a_task_is_retried(tasks, workers):
    assert tasks.third_time.delay().get(timeout=ANSWER_SECONDS) == 2


def test_a_task_waits_for_its_time(tasks, workers):
    began = time.monotonic()
    assert tasks.add.apply_async((1, 2), countdown=1).get(timeout=ANSWER_SECONDS) == 3
    assert time.monotonic() - began >= 1


def test_a_revoked_task_is_not_done(tasks, workers):
    from celery.exceptions import TaskRevokedError

    result = tasks.add.apply_async((1, 2), countdown=2)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=ANSWER_SECONDS)


def test_workers_answer_questions(tasks, workers):
    names = {worker.name for worker in workers}
    asked = tasks.app.control.inspect(timeout=5, limit=2)
    assert set(asked.stats() or {}) == names
    assert all("celery_app.add" in registered for registered in (asked.registered() or {}).values())
    answers = tasks.app.control.broadcast("rate_limit", {"task_name": "celery_app.where", "rate_limit": "100/s"}, reply=True, timeout=5, limit=2)
    assert {name for answer in answers for name in answer} == names


def test_events_are_heard(tasks, workers):
    heard = []
    wanted = {"task-received", "task-started", "task-succeeded"}

    def listen():
        with tasks.app.connection_for_read() as connection:
            receiver = tasks.app.events.Receiver(connection, handlers={"*": heard.append})
            for _ in receiver.itercapture(limit=None, timeout=None, wakeup=True):
                if wanted <= {event["type"] for event in heard}:
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    # The first tasks may be over before the listener listens.
    wait_until(lambda: (tasks.add.delay(1, 1).get(timeout=ANSWER_SECONDS), not thread.is_alive())[1], seconds=ANSWER_SECONDS)


def test_a_task_whose_worker_died_is_done_by_another(cluster, tasks, workers):
    dying = Worker(cluster, "dying", 1, pool="solo", queue="perilous")
    try:
        result = tasks.hold.apply_async(queue="perilous")
        wait_until(lambda: result.state == "STARTED", seconds=60)
    finally:
        dying.stop(signal.SIGKILL)
    admin = cluster.connect(2, "default", "admin-password")
    assert admin.zcard("work:unacked_index") >= 1
    # What the dead worker had taken is visible again after the visibility timeout.
    saving = Worker(cluster, "saving", 3, queue="perilous")
    try:
        assert result.get(timeout=60) == "held"
    finally:
        saving.stop()


def test_every_key_carries_the_prefix(cluster, tasks, workers):
    tasks.add.delay(1, 1).get(timeout=ANSWER_SECONDS)
    admin = cluster.connect(3, "default", "admin-password")
    assert [key for key in admin.scan_iter("*", count=1000) if not key.startswith("work:")] == []
