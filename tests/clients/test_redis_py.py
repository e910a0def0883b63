"""redis-py where commands wait, watch and listen: what one node is told, clients of the other nodes see.

It is long because each feature of the client is one story, told in order.
"""

import asyncio
import threading
import time
import uuid

import pytest
import redis
import redis.asyncio
from conftest import AGAINST_VALKEY, wait_until
from redis.cache import CacheConfig

PROTOCOLS = [2, 3]
ANSWER_SECONDS = 20


@pytest.fixture(params=PROTOCOLS, ids=["resp2", "resp3"])
def on(request, open_cluster):
    """A client of the given node, closed when the test is over."""
    opened = []

    def connect(node, **more):
        client = open_cluster.connect(node, protocol=request.param, socket_timeout=ANSWER_SECONDS, **more)
        opened.append(client)
        return client

    connect.protocol = request.param
    yield connect
    for client in opened:
        client.close()


@pytest.fixture
def key():
    return f"story:{uuid.uuid4().hex}"


def in_background(work, *arguments):
    """Runs `work` on a thread; `join()` gives what it returned or raises what it raised."""
    result = {}

    def body():
        try:
            result["value"] = work(*arguments)
        except Exception as error:  # handed to whoever joins
            result["error"] = error

    thread = threading.Thread(target=body, daemon=True)
    thread.start()

    def join():
        thread.join(ANSWER_SECONDS)
        assert not thread.is_alive(), "still waiting"
        if "error" in result:
            raise result["error"]
        return result["value"]

    return join


def wait_until_blocked(on):
    """Until a client waits, at whichever node serves it."""
    nodes = [on(node) for node in (1, 2, 3)]
    wait_until(lambda: any(node.info("clients")["blocked_clients"] for node in nodes), seconds=ANSWER_SECONDS)


# ---- transactions ----


def test_a_transaction_is_carried_out_as_one(on, key):
    with on(2).pipeline() as pipe:
        pipe.set(key, "1").incr(key).lpush(key + ":l", "a", "b").lrange(key + ":l", 0, -1).get(key)
        assert pipe.execute() == [True, 2, 2, ["b", "a"], "2"]
    assert on(3).get(key) == "2"


def test_one_commands_error_leaves_the_others(on, key):
    with on(1).pipeline() as pipe:
        pipe.set(key, "text").incr(key).get(key)
        answers = pipe.execute(raise_on_error=False)
    assert answers[0] is True and answers[2] == "text"
    assert isinstance(answers[1], redis.exceptions.ResponseError) and "not an integer" in str(answers[1])


def test_a_command_that_cannot_be_queued_undoes_the_transaction(on, key):
    with on(2).pipeline() as pipe:
        pipe.set(key, "never").execute_command("NOSUCHCOMMAND")
        with pytest.raises(redis.exceptions.ResponseError, match="unknown command"):
            pipe.execute()
    assert on(1).get(key) is None


def test_a_watched_key_that_another_node_changed_undoes_the_transaction(on, key):
    watcher, other = on(1), on(3)
    with watcher.pipeline() as pipe:
        pipe.watch(key)
        other.set(key, "theirs")
        # Seen through the watcher's own connection, so that what follows is after it.
        wait_until(lambda: pipe.get(key) == "theirs")
        pipe.multi()
        pipe.set(key, "mine")
        with pytest.raises(redis.exceptions.WatchError):
            pipe.execute()
    assert other.get(key) == "theirs"


def test_no_increment_is_lost_among_watching_clients_of_all_nodes(open_cluster, key):
    rounds, retries = 25, []

    def count(node):
        client = open_cluster.connect(node, socket_timeout=ANSWER_SECONDS)

        def step(pipe):
            current = int(pipe.get(key) or 0)
            pipe.multi()
            pipe.set(key, current + 1)

        for _ in range(rounds):
            retries.append(client.transaction(step, key))

    joins = [in_background(count, node) for node in (1, 2, 3, 1, 2, 3)]
    for join in joins:
        join()
    assert open_cluster.connect(2).get(key) == str(6 * rounds)


# ---- locks ----


def test_a_lock_is_one_holders_across_nodes(on, key):
    mine = on(1).lock(key, timeout=30)
    theirs = on(2).lock(key, timeout=30)
    assert mine.acquire(blocking=False)
    assert not theirs.acquire(blocking=False)
    assert mine.locked() and theirs.locked() and mine.owned() and not theirs.owned()
    assert mine.extend(60) and on(3).pttl(key) > 60_000
    assert mine.extend(10, replace_ttl=True) and on(3).pttl(key) <= 10_000
    assert mine.reacquire() and on(3).pttl(key) > 10_000
    with pytest.raises(redis.exceptions.LockError):
        theirs.release()
    mine.release()
    assert theirs.acquire(blocking=False)
    with pytest.raises(redis.exceptions.LockError):
        mine.release()
    with pytest.raises(redis.exceptions.LockNotOwnedError):
        on(3).delete(key)
        theirs.release()


def test_a_waiting_lock_is_taken_when_it_is_free(on, key):
    mine = on(1).lock(key, timeout=30)
    assert mine.acquire()
    theirs = on(3).lock(key, timeout=30, sleep=0.01, blocking_timeout=ANSWER_SECONDS, thread_local=False)
    join = in_background(theirs.acquire)
    mine.release()
    assert join() is True
    theirs.release()
    with on(2).lock(key, timeout=5) as held:
        assert held.owned()


# ---- blocking ----


@pytest.mark.parametrize("pop", ["blpop", "brpop"])
def test_a_pop_waits_for_a_push_on_another_node(on, key, pop):
    waiting, pushing = on(2), on(3)
    for word in ("one", "two"):
        join = in_background(getattr(waiting, pop), [key, key + ":other"], 10)
        wait_until_blocked(on)
        pushing.rpush(key, word)
        assert list(join()) == [key, word]
    started = time.monotonic()
    assert waiting.blpop([key], 0.2) is None
    assert time.monotonic() - started >= 0.2


def test_the_other_blocking_commands_wait_as_well(on, key):
    waiting, writing = on(3), on(1)
    join = in_background(waiting.bzpopmin, [key + ":z"], 10)
    wait_until_blocked(on)
    writing.zadd(key + ":z", {"late": 2, "early": 1})
    assert list(join()) == [key + ":z", "early", 1.0]
    join = in_background(waiting.blmove, key + ":from", key + ":to", 10, "LEFT", "RIGHT")
    wait_until_blocked(on)
    writing.rpush(key + ":from", "moved")
    assert join() == "moved" and writing.lrange(key + ":to", 0, -1) == ["moved"]
    join = in_background(lambda: waiting.blmpop(10, 2, key + ":a", key + ":b", direction="LEFT", count=2))
    wait_until_blocked(on)
    writing.rpush(key + ":b", "x", "y", "z")
    name, words = join()
    assert name == key + ":b" and words == ["x", "y"]


def test_the_longest_waiting_client_is_served_first_and_each_once(open_cluster, key):
    names = [open_cluster.connect(node, socket_timeout=ANSWER_SECONDS) for node in (1, 2, 3, 1, 2, 3)]
    joins = [in_background(client.blpop, [key], 10) for client in names]
    pushing = open_cluster.connect(2)
    pushing.rpush(key, *[f"word {number}" for number in range(6)])
    assert sorted(word for _, word in (join() for join in joins)) == [f"word {number}" for number in range(6)]
    assert pushing.exists(key) == 0


def test_a_blocked_client_is_let_go(on, key):
    waiting = on(2)
    number = waiting.client_id()
    join = in_background(waiting.blpop, [key], 10)
    wait_until_blocked(on)
    wait_until(lambda: on(2).client_unblock(number), seconds=ANSWER_SECONDS)
    assert join() is None


# ---- publish and subscribe ----


def received(listener, kind, seconds=ANSWER_SECONDS):
    return wait_until(
        lambda: next((told for told in iter(lambda: listener.get_message(timeout=0.05), None) if told["type"] == kind), None),
        seconds=seconds,
    )


def test_subscribers_of_every_node_hear_what_any_node_publishes(on, key):
    listeners = [on(node).pubsub() for node in (1, 2, 3)]
    for listener in listeners:
        listener.subscribe(key)
        listener.psubscribe(key + ":*")
        received(listener, "subscribe")
        received(listener, "psubscribe")
    for node in (1, 2, 3):
        on(node).publish(key, f"from {node}")
        on(node).publish(f"{key}:{node}", "patterned")
        for listener in listeners:
            assert received(listener, "message")["data"] == f"from {node}"
            told = received(listener, "pmessage")
            assert (told["pattern"], told["channel"], told["data"]) == (key + ":*", f"{key}:{node}", "patterned")
    assert key in on(2).pubsub_channels(key + "*")
    for listener in listeners:
        listener.unsubscribe()
        listener.punsubscribe()
        received(listener, "punsubscribe")
        listener.close()


def test_a_sharded_channel(on, key):
    listener = on(2).pubsub()
    listener.ssubscribe(key)
    received(listener, "ssubscribe")
    on(1).spublish(key, "sharded")
    assert received(listener, "smessage")["data"] == "sharded"
    listener.sunsubscribe()
    received(listener, "sunsubscribe")
    listener.close()


def test_a_listening_thread(on, key):
    heard = []
    listener = on(3).pubsub(ignore_subscribe_messages=True)
    listener.subscribe(**{key: lambda told: heard.append(told["data"])})
    thread = listener.run_in_thread(sleep_time=0.01, daemon=True)
    try:
        publisher = on(1)
        wait_until(lambda: publisher.publish(key, "tick") is not None and heard, seconds=ANSWER_SECONDS)
    finally:
        thread.stop()
        thread.join(ANSWER_SECONDS)
    assert set(heard) == {"tick"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_asyncio_subscribers(open_cluster, key, protocol):
    async def story():
        def connect(node):
            return redis.asyncio.Redis(host="127.0.0.1", port=open_cluster.ports[node - 1], decode_responses=True, protocol=protocol)

        async with connect(1) as publisher, connect(2) as subscriber, subscriber.pubsub() as listener:
            await listener.subscribe(key)
            await listener.psubscribe(key[:8] + "*")
            words = []

            async def listen():
                async for told in listener.listen():
                    if told["type"] in ("message", "pmessage"):
                        words.append(told["data"])
                    if told["type"] == "psubscribe":
                        ready.set()
                    if len(words) == 20:
                        return

            ready = asyncio.Event()
            task = asyncio.create_task(listen())
            await asyncio.wait_for(ready.wait(), ANSWER_SECONDS)
            for number in range(10):
                await publisher.publish(key, str(number))
            await asyncio.wait_for(task, ANSWER_SECONDS)
            assert words == [str(number) for number in range(10) for _ in range(2)]

    asyncio.run(story())


# ---- streams ----


def fields(reply):
    """The entries of an XREAD reply's only stream, whichever shape the protocol gives it."""
    ((_, entries),) = reply.items() if isinstance(reply, dict) else reply
    while entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], (list, tuple)):
        entries = entries[0]
    return [(number, dict(pairs) if not isinstance(pairs, dict) else pairs) for number, pairs in entries]


def test_a_reader_waits_for_an_entry_of_another_node(on, key):
    reader = on(2)
    join = in_background(lambda: reader.xread({key: "$"}, block=10_000))
    wait_until_blocked(on)
    number = on(3).xadd(key, {"word": "new"})
    assert fields(join()) == [(number, {"word": "new"})]


def test_a_group_shares_a_stream_between_consumers_of_two_nodes(on, key):
    admin = on(1)
    assert admin.xgroup_create(key, "workers", id="0", mkstream=True)
    with pytest.raises(redis.exceptions.ResponseError, match="^BUSYGROUP|Consumer Group name already exists"):
        admin.xgroup_create(key, "workers", id="0")

    def consume(node, name):
        client, done = on(node), []
        while True:
            entries = fields(client.xreadgroup("workers", name, {key: ">"}, count=5, block=10_000))
            for number, pairs in entries:
                if pairs["word"] == "end":
                    client.xack(key, "workers", number)
                    return done
                done.append(pairs["word"])
                client.xack(key, "workers", number)

    joins = [in_background(consume, 2, "ada"), in_background(consume, 3, "grace")]
    words = [f"word {number}" for number in range(200)]
    for word in words:
        admin.xadd(key, {"word": word}, maxlen=10_000, approximate=True)
    admin.xadd(key, {"word": "end"})
    # Whoever did not get this end waits for one of its own.
    wait_until(lambda: admin.xpending(key, "workers")["pending"] == 0 and admin.xinfo_groups(key)[0]["lag"] == 0)
    admin.xadd(key, {"word": "end"})
    done = [join() for join in joins]
    assert sorted(done[0] + done[1]) == sorted(words)
    assert {consumer["name"] for consumer in admin.xinfo_consumers(key, "workers")} == {"ada", "grace"}


def test_an_entry_nobody_finished_is_claimed_by_another(on, key):
    on(1).xgroup_create(key, "workers", id="$", mkstream=True)
    number = on(1).xadd(key, {"word": "dropped"})
    assert fields(on(2).xreadgroup("workers", "dead", {key: ">"})) == [(number, {"word": "dropped"})]
    pending = on(3).xpending_range(key, "workers", "-", "+", 10)
    assert [(entry["message_id"], entry["consumer"], entry["times_delivered"]) for entry in pending] == [(number, "dead", 1)]
    claimed = on(3).xautoclaim(key, "workers", "alive", min_idle_time=0)
    assert [entry[0] for entry in claimed[1]] == [number]
    assert on(1).xpending(key, "workers")["consumers"] == [{"name": "alive", "pending": 1}]
    assert on(1).xack(key, "workers", number) == 1


# ---- scripts ----


def test_a_registered_script_runs_on_every_node(on, key):
    body = "local n = redis.call('INCRBY', KEYS[1], ARGV[1]); return {n, redis.call('TTL', KEYS[1]), cjson.encode({n = n})}"
    total = 0
    for node in (1, 2, 3):
        script = on(node).register_script(body)
        total += 5
        assert script(keys=[key], args=[5]) == [total, -1, '{"n":%d}' % total]
    with on(2).pipeline() as pipe:
        pipe.set(key, 1)
        script(keys=[key], args=[1], client=pipe)
        assert pipe.execute()[1][0] == 2


def test_an_unknown_script_is_told_apart(on):
    with pytest.raises(redis.exceptions.NoScriptError):
        on(1).evalsha("f" * 40, 0)
    digest = on(1).script_load("return ARGV[1]")
    assert on(1).script_exists(digest, "0" * 40) == [True, False]
    assert on(1).evalsha(digest, 0, "said") == "said"
    assert on(1).eval_ro("return redis.call('GET', KEYS[1])", 1, "nothing") is None
    with pytest.raises(redis.exceptions.ResponseError, match="my words"):
        on(3).eval("return redis.error_reply('MINE my words')", 0)


def test_a_monitor_sees_scripts_before_what_they_call_and_unknown_ones_too(on, key):
    with on(2).monitor() as monitor:
        with pytest.raises(redis.exceptions.NoScriptError):
            on(3).evalsha("f" * 40, 1, key)
        on(3).eval("return redis.call('GET', KEYS[1])", 1, key)
        seen = []
        while len(seen) < 3:
            shown = monitor.next_command()
            if key in shown["command"]:
                seen.append((shown["command"].split()[0].upper(), shown["client_type"] == "lua"))
    assert seen == [("EVALSHA", False), ("EVAL", False), ("GET", True)]


# ---- client side caching ----


def test_a_cached_value_is_dropped_when_another_node_writes_it(open_cluster, key, monkeypatch):
    if AGAINST_VALKEY:
        # The client asks for a server that calls itself Redis, 7.4 or later; a proof with another name is a proof as well.
        monkeypatch.setattr(redis.connection.CacheProxyConnection, "DEFAULT_SERVER_NAME", open_cluster.server_name())
        monkeypatch.setattr(redis.connection.CacheProxyConnection, "MIN_ALLOWED_VERSION", "7.0.0")
    cached = redis.Redis(
        host="127.0.0.1", port=open_cluster.ports[1], protocol=3, decode_responses=True, cache_config=CacheConfig(),
        socket_timeout=ANSWER_SECONDS,
    )
    writer = open_cluster.connect(3)
    writer.set(key, "old")
    assert wait_until(lambda: cached.get(key)) == "old"
    assert cached.get_cache().size >= 1
    writer.set(key, "new")
    wait_until(lambda: cached.get(key) == "new", seconds=ANSWER_SECONDS)
    cached.close()


def test_invalidations_are_pushed(open_cluster, key):
    with redis.Redis(host="127.0.0.1", port=open_cluster.ports[0], protocol=3, decode_responses=True).client() as client:
        client.execute_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", key)
        tracked = client.execute_command("CLIENT", "TRACKINGINFO")
        assert "on" in tracked["flags"] and "bcast" in tracked["flags"]
        client.execute_command("CLIENT", "TRACKING", "OFF")
