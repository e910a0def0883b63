"""Valkey GLIDE's cluster client, whose core is redis-rs, in both modes of `routing`; and its other one, which needs a primary."""

import asyncio
import uuid

import pytest
from conftest import AGAINST_VALKEY, Cluster, wait_until
from glide import (
    ClosingError,
    ClusterBatch,
    GlideClient,
    GlideClientConfiguration,
    GlideClusterClient,
    GlideClusterClientConfiguration,
    NodeAddress,
    ReadFrom,
    Script,
)

pytestmark = pytest.mark.skipif(AGAINST_VALKEY, reason="one Valkey without cluster mode is no cluster")

ANSWER_MS = 20_000


@pytest.fixture(scope="module", params=[1, 3], ids=["one group", "three groups"])
def nodes(request):
    cluster = Cluster(groups=request.param)
    try:
        # Until then replicas are not on the map, or one node serves what three shall.
        wait_until(cluster.is_settled, cluster)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(params=["proxy", "redirect"])
def run(request, nodes):
    for node in (1, 2, 3):
        with nodes.connect(node) as client:
            client.config_set("routing", request.param)

    def run(story, **more):
        async def body():
            addresses = [NodeAddress("127.0.0.1", port) for port in nodes.ports]
            settings = GlideClusterClientConfiguration(addresses, request_timeout=ANSWER_MS, **more)
            client = await GlideClusterClient.create(settings)
            try:
                await story(client, f"glide:{uuid.uuid4().hex}")
            finally:
                await client.close()

        asyncio.run(body())

    return run


def test_keys_of_many_slots_are_written_and_read(run):
    async def story(client, key):
        await asyncio.gather(*[client.set(f"{key}:{number}", str(number)) for number in range(100)])
        answers = await asyncio.gather(*[client.get(f"{key}:{number}") for number in range(100)])
        assert answers == [str(number).encode() for number in range(100)]
        assert await client.mset({f"{key}:a": "1", f"{key}:b": "2"}) == "OK"
        assert await client.mget([f"{key}:a", f"{key}:b"]) == [b"1", b"2"]
        assert await client.delete([f"{key}:a", f"{key}:b"]) == 2

    run(story)


def test_batches_and_scripts_run(run):
    async def story(client, key):
        atomic = ClusterBatch(is_atomic=True)
        atomic.set(f"{{{key}}}:a", "1")
        atomic.incr(f"{{{key}}}:a")
        assert (await client.exec(atomic, raise_on_error=True))[1] == 2
        pipeline = ClusterBatch(is_atomic=False)
        for number in range(50):
            pipeline.set(f"{key}:{number}", "x")
        assert await client.exec(pipeline, raise_on_error=True) == ["OK"] * 50
        script = Script("return redis.call('INCR', KEYS[1])")
        assert await client.invoke_script(script, keys=[key]) == 1

    run(story)


def test_replicas_answer_reads_when_asked(run):
    async def story(client, key):
        await client.set(key, "x")
        for _ in range(100):
            if await client.get(key) == b"x":
                break
            await asyncio.sleep(0.02)
        assert await client.get(key) == b"x"

    run(story, read_from=ReadFrom.PREFER_REPLICA)


def test_the_standalone_client_writes_through_any_node_that_says_it_is_a_primary(nodes):
    def advertise(role):
        for node in (1, 2, 3):
            with nodes.connect(node) as client:
                client.config_set("routing", "proxy")
                client.config_set("advertise-role", role)

    async def write_through(port):
        settings = GlideClientConfiguration([NodeAddress("127.0.0.1", port)], request_timeout=ANSWER_MS)
        client = await GlideClient.create(settings)
        try:
            key = f"glide:{uuid.uuid4().hex}"
            assert await client.set(key, "x") == "OK"
            assert await client.get(key) == b"x"
        finally:
            await client.close()

    advertise("primary")
    try:
        for port in nodes.ports:
            asyncio.run(write_through(port))
    finally:
        advertise("actual")
    refused = 0
    for port in nodes.ports:
        try:
            asyncio.run(write_through(port))
        except ClosingError:
            refused += 1
    assert refused == 3 - nodes.groups, "when it takes nodes that forward by itself, the README need not name it"
