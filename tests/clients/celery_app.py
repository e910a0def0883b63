"""The tasks of the Celery suite; imported by the worker processes and by the tests.

Broker and result backend come from the environment, so that workers and tests each use a node of their own.
"""

import os
import time

from celery import Celery

app = Celery("story", broker=os.environ.get("STORY_BROKER"), backend=os.environ.get("STORY_BACKEND"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"global_keyprefix": os.environ.get("STORY_PREFIX", ""), "visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_restore_throttle": 1},
    result_backend_transport_options={"global_keyprefix": os.environ.get("STORY_PREFIX", "")},
    result_expires=60,
    task_track_started=True,
    task_default_queue="story",
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,
    task_send_sent_event=True,
)


@app.task
def add(one, other):
    return one + other


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task
def refuse(why):
    raise ValueError(why)


@app.task(bind=True)
def where(self):
    return self.request.hostname


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def hold(self):
    """Never ends the first time; ends at once when it was delivered again."""
    if not self.request.delivery_info.get("redelivered"):
        time.sleep(600)
    return "held"
