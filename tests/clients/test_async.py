"""redis-py's asyncio client: the same cache, many connections at once."""

import asyncio

import pytest
import redis
import redis.asyncio


def connect(cluster, node, user, password, **more):
    return redis.asyncio.Redis(
        host="127.0.0.1", port=cluster.ports[node - 1], username=user, password=password, decode_responses=True, **more
    )


@pytest.mark.parametrize("protocol", [2, 3])
def test_many_tasks_share_a_cache(pattern_cluster, protocol):
    async def story():
        more = {"protocol": protocol, "max_connections": 400}
        async with connect(pattern_cluster, 2, "litellm", "litellm-password", **more) as cache:
            await cache.delete("litellm:async")
            await asyncio.gather(*[cache.incr("litellm:async") for _ in range(300)])
            assert await cache.get("litellm:async") == "300"
            with pytest.raises(redis.exceptions.NoPermissionError) as refused:
                await cache.get("langfuse:test:key")
            assert str(refused.value) == pattern_cluster.denial("litellm", "langfuse:test:key")

    asyncio.run(story())


def test_a_live_change_reaches_tasks_on_other_nodes(pattern_cluster):
    async def story():
        async with connect(pattern_cluster, 1, "default", "admin-password") as admin:
            await admin.execute_command("ACL", "SETUSER", "asyncapp", "on", ">secret", "resetkeys", "~a:*", "+@all")
            async with connect(pattern_cluster, 3, "asyncapp", "secret", max_connections=1) as app:
                assert await app.set("a:1", "x")
                await admin.execute_command("ACL", "SETUSER", "asyncapp", "-set")
                with pytest.raises(redis.exceptions.NoPermissionError, match="no permissions to run the 'set' command"):
                    await app.set("a:1", "x")
                assert await app.get("a:1") == "x"

    asyncio.run(story())
