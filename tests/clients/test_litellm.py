"""LiteLLM's own classes: caches, counters, rate limiter, pod lock and invalidation, as a proxy with several pods runs them.

Each pod talks to another node: as the confined user of the pattern document, who prefixes its keys, and as the user of a
namespace, who need not and who is denied nothing. Models are never called.
"""

import asyncio
import datetime
import time
import uuid

import litellm
import pytest
import redis
from conftest import NAMESPACE, PATTERN, started, wait_until
from litellm.caching.dual_cache import DualCache
from litellm.caching.redis_cache import RedisCache
from litellm.proxy.common_utils import auth_cache_invalidation_pubsub as invalidation
from litellm.proxy.db.db_transaction_queue.pod_lock_manager import PodLockManager
from litellm.proxy.hooks.parallel_request_limiter_v3 import _PROXY_MaxParallelRequestsHandler_v3 as RateLimiter
from litellm.proxy.utils import InternalUsageCache

# The document's user says nothing of channels; invalidations travel over one.
POLICY = PATTERN.replace("~litellm:* +@all", "~litellm:* &litellm:* +@all")
ANSWER_SECONDS = 20


@pytest.fixture(scope="module", params=["prefix", "namespace"])
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def cluster(mode):
    for cluster in started(POLICY if mode == "prefix" else NAMESPACE):
        if mode == "namespace":
            cluster.make_namespace("litellm", "litellm")
        yield cluster
        if mode == "namespace":
            assert cluster.denials("litellm") == []


@pytest.fixture(scope="module")
def prefix(mode):
    """What LiteLLM puts before its keys, if it is told to."""
    return "litellm:" if mode == "prefix" else ""


@pytest.fixture(scope="module")
def settings(mode):
    login = {"username": "litellm", "password": "litellm-password"}
    return {**login, "namespace": "litellm"} if mode == "prefix" else login


@pytest.fixture
def pods(cluster, settings):
    """Three pods' caches, one to a node."""
    return [RedisCache(host="127.0.0.1", port=port, **settings) for port in cluster.ports]


@pytest.fixture
def key():
    return f"story-{uuid.uuid4().hex}"


@pytest.fixture
def own(cluster):
    """A plain client of the same user."""
    return cluster.connect(1, "litellm", "litellm-password")


def run(story):
    """Runs a story with clients of its own event loop, and closes them."""

    async def whole():
        litellm.in_memory_llm_clients_cache.flush_cache()
        await asyncio.wait_for(story(), 60)

    asyncio.run(whole())


def test_a_response_cached_by_one_pod_is_served_by_another(pods, key, own, prefix):
    answer = {"choices": [{"message": {"content": "grüße"}}], "usage": {"total_tokens": 3}}
    pods[0].set_cache(key, answer, ttl=60)
    assert pods[1].get_cache(key) == answer
    assert pods[2].batch_get_cache([key, "nothing"]) == {key: answer, "nothing": None}
    assert 0 < own.ttl(f"{prefix}{key}") <= 60
    assert pods[1].increment_cache(key + ":n", 2, ttl=60) == 2
    pods[2].delete_cache(key)
    assert pods[0].get_cache(key) is None
    assert pods[0].sync_ping() and pods[0].redis_version.startswith(("7.", "8.", "9."))


def test_the_asynchronous_cache(pods, key, prefix):
    async def story():
        one, two, three = pods
        assert await one.ping()
        assert await one.async_set_cache(key, {"a": 1}, ttl=60)
        assert await two.async_set_cache(key, {"a": 2}, ttl=60, nx=True) is None
        assert await three.async_get_cache(key) == {"a": 1}
        await one.async_set_cache_pipeline([(f"{key}:{number}", {"n": number}) for number in range(50)], ttl=60)
        many = await two.async_batch_get_cache([f"{key}:{number}" for number in range(51)])
        assert [many[f"{key}:{number}"] for number in range(51)] == [{"n": number} for number in range(50)] + [None]
        assert len(await three.async_scan_iter(f"{prefix}{key}:", count=1000)) == 50
        assert 0 < await two.async_get_ttl(key) <= 60
        await one.async_delete_cache(key)
        assert await three.async_get_cache(key) is None
        await one.async_set_cache_sadd(key + ":set", ["x", "y"], ttl=60)

    run(story)


def test_counters_of_several_pods_add_up(pods, key):
    async def story():
        await asyncio.gather(*[pods[number % 3].async_increment(key, 0.5, ttl=60) for number in range(60)])
        assert await pods[0].async_get_cache(key) == 30
        operations = [{"key": f"{key}:{number}", "increment_value": 1.5, "ttl": 60} for number in range(5)]
        assert await pods[1].async_increment_pipeline(operations) == [1.5] * 5
        assert await pods[2].async_set_max(key, 10, ttl=60) == 30
        assert await pods[2].async_set_max(key, 50.5, ttl=60) == 50.5

    run(story)


def test_spend_updates_queue_up_for_one_pod(pods, key):
    async def story():
        assert await pods[0].async_rpush(key, ["one", "two", "three"]) == 3
        assert await pods[1].async_rpush(key, ["four"]) == 4
        assert await pods[2].async_lpop(key, count=3) == ["one", "two", "three"]
        assert await pods[2].async_lpop(key, count=100) == ["four"]
        assert not await pods[2].async_lpop(key, count=100)

    run(story)


def test_two_levels_of_cache(pods, key):
    async def story():
        one, two = DualCache(redis_cache=pods[0]), DualCache(redis_cache=pods[1])
        await one.async_set_cache(key, {"deep": [1, 2]}, ttl=60)
        assert await two.async_get_cache(key) == {"deep": [1, 2]}
        assert await two.async_increment_cache(key + ":n", 2, ttl=60) == 2
        assert await two.async_batch_get_cache([key, "nothing"]) == [{"deep": [1, 2]}, None]
        await one.async_delete_cache(key)
        assert await pods[2].async_get_cache(key) is None

    run(story)


def test_the_completion_cache_of_the_documents(cluster, key, mode, settings):
    cache = litellm.Cache(type="redis", host="127.0.0.1", port=cluster.ports[1], **settings)
    asked = {"model": "gpt-4", "messages": [{"role": "user", "content": key}]}
    assert cache.get_cache(**asked) is None
    cache.add_cache('{"answer": 42}', **asked)
    assert cache.get_cache(**asked) == {"answer": 42}
    admin = cluster.connect(1, "default", "admin-password")
    if mode == "namespace":
        assert list(admin.scan_iter("*", count=1000)) == [], "a namespace is a world of its own"
        return
    assert all(name.startswith("litellm:") for name in admin.scan_iter("*", count=1000))
    foreign = RedisCache(host="127.0.0.1", port=cluster.ports[0], username="litellm", password="litellm-password", namespace="langfuse")
    with pytest.raises(redis.exceptions.NoPermissionError):
        foreign.increment_cache(key, 1)


def test_only_one_pod_holds_a_job(pods, key, own, prefix):
    async def story():
        managers = [PodLockManager(redis_cache=cache) for cache in pods]
        taken = await asyncio.gather(*[manager.acquire_lock(key) for manager in managers])
        assert sorted(taken) == [False, False, True]
        holder = managers[taken.index(True)]
        assert await holder.acquire_lock(key) is True
        for manager in managers:
            if manager is not holder:
                await manager.release_lock(key)
        assert own.exists(f"{prefix}cronjob_lock:{key}") == 1
        await holder.release_lock(key)
        assert own.exists(f"{prefix}cronjob_lock:{key}") == 0

    run(story)


def limiters(pods):
    return [RateLimiter(InternalUsageCache(DualCache(redis_cache=cache))) for cache in pods]


def limited(key, **limits):
    return [{"key": "api_key", "value": key, "rate_limit": {"window_size": 60, **limits}}]


def test_requests_per_minute_are_counted_over_all_pods(pods, key):
    async def story():
        pod = limiters(pods)
        asked = limited(key, requests_per_unit=10)
        answers = [await pod[number % 3].should_rate_limit(asked) for number in range(12)]
        assert [answer["overall_code"] for answer in answers] == ["OK"] * 10 + ["OVER_LIMIT"] * 2

    run(story)


def test_tokens_are_reserved_all_or_nothing(pods, key):
    async def story():
        pod = limiters(pods)
        asked = limited(key, tokens_per_unit=100, requests_per_unit=1000)
        take = [{"tokens": 30, "requests": 1}]
        answers = await asyncio.gather(*[pod[number % 3].atomic_check_and_increment_by_n(asked, take) for number in range(9)])
        assert sorted(answer["overall_code"] for answer in answers) == ["OK"] * 3 + ["OVER_LIMIT"] * 6
        window = {"key": f"{{api_key:{key}}}:used", "increment_value": 12.5, "ttl": 60}
        await pod[0].async_increment_tokens_with_ttl_preservation([window])
        await pod[1].async_increment_tokens_with_ttl_preservation([window])
        assert await pods[2].async_get_cache(window["key"]) == 25

    run(story)


def test_parallel_requests_are_held_by_slots(pods, key, prefix):
    async def story():
        pod = limiters(pods)
        asked = limited(key, max_parallel_requests=2)
        codes = [(await pod[number].should_rate_limit(asked, parallel_slot_id=f"slot {number}"))["overall_code"] for number in range(3)]
        assert codes == ["OK", "OK", "OVER_LIMIT"]
        gauges = [name async for name in pods[0].init_async_client().scan_iter(f"{prefix}*{key}*", count=1000)]
        released = [name.decode().removeprefix(prefix) for name in gauges]
        await pod[2].parallel_release_script(keys=released, args=["slot 0"] * len(released))
        # The first pod has seen one slot taken; the second, which saw two, would trust its own memory.
        assert (await pod[0].should_rate_limit(asked, parallel_slot_id="slot 3"))["overall_code"] == "OK"

    run(story)


def test_a_pod_hears_what_another_invalidates(pods, key, prefix):
    channel = invalidation.auth_cache_invalidation_channel(pods[0])
    assert channel.startswith(prefix)

    async def story():
        async with pods[2].init_async_client().pubsub() as listener:
            await listener.subscribe(channel)
            assert (await listener.get_message(timeout=ANSWER_SECONDS))["type"] == "subscribe"
            await pods[0].init_async_client().publish(channel, invalidation._cache_invalidation_message_json(key, new_value=1.5))
            told = None
            deadline = time.monotonic() + ANSWER_SECONDS
            while told is None and time.monotonic() < deadline:
                told = await listener.get_message(ignore_subscribe_messages=True, timeout=1)
            assert invalidation._message_from_data(told["data"]).new_value == 1.5

    run(story)


def test_values_expire(pods, key):
    pods[0].set_cache(key, {"soon": "gone"}, ttl=1)
    began = datetime.datetime.now()
    wait_until(lambda: pods[1].get_cache(key) is None, seconds=ANSWER_SECONDS)
    assert datetime.datetime.now() - began >= datetime.timedelta(seconds=0.5)
