"""The pattern document's scenarios with redis-py: isolated applications on one cache."""

import hashlib

import pytest
import redis
from conftest import AGAINST_VALKEY, wait_until

PROTOCOLS = [2, 3]
NODES = [1, 2, 3]


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_application_uses_its_own_keys(pattern_cluster, node, protocol):
    litellm = pattern_cluster.connect(node, "litellm", "litellm-password", protocol=protocol)
    assert litellm.ping()
    assert litellm.set("litellm:test:key", "value")
    assert litellm.get("litellm:test:key") == "value"
    assert litellm.acl_whoami() == "litellm"


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_another_applications_keys_are_refused_with_the_documents_text(pattern_cluster, node, protocol):
    litellm = pattern_cluster.connect(node, "litellm", "litellm-password", protocol=protocol)
    with pytest.raises(redis.exceptions.NoPermissionError) as refused:
        litellm.get("langfuse:test:key")
    assert str(refused.value) == pattern_cluster.denial("litellm", "langfuse:test:key")
    langfuse = pattern_cluster.connect(node, "langfuse", "langfuse-password", protocol=protocol)
    with pytest.raises(redis.exceptions.NoPermissionError):
        langfuse.get("litellm:cache:123")
    assert langfuse.set("langfuse:session:456", "x")


def test_a_connection_string_with_a_database_works(pattern_cluster):
    url = f"redis://litellm:litellm-password@127.0.0.1:{pattern_cluster.ports[1]}/0"
    assert redis.Redis.from_url(url).set("litellm:cache:model_gpt-4_user_123", "x", ex=60)


def test_acl_list_shows_the_documents_rules(pattern_cluster):
    admin = pattern_cluster.connect(2, "default", "admin-password")
    lines = {line.split()[1]: line.split() for line in admin.acl_list()}
    for user, key in [("default", "~*"), ("litellm", "~litellm:*"), ("langfuse", "~langfuse:*")]:
        password = "admin-password" if user == "default" else f"{user}-password"
        expected = {"user", user, "on", "#" + hashlib.sha256(password.encode()).hexdigest(), key, "+@all"}
        assert expected <= set(lines[user])


def test_without_a_login_nothing_works(pattern_cluster):
    with pytest.raises(redis.exceptions.AuthenticationError, match="Authentication required"):
        pattern_cluster.connect(1, protocol=2).get("a")


def test_a_forgotten_username_or_a_wrong_password_is_a_wrong_pass(pattern_cluster):
    for user, password in [(None, "litellm-password"), ("litellm", "wrong"), ("nobody", "litellm-password")]:
        with pytest.raises(redis.exceptions.AuthenticationError, match="invalid username-password pair"):
            pattern_cluster.connect(1, user, password).ping()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_change_is_seen_by_open_connections_of_every_node(pattern_cluster, protocol):
    admin = pattern_cluster.connect(2, "default", "admin-password", protocol=protocol)
    admin.acl_setuser("app", enabled=True, reset=True, passwords=["+secret"], keys=["a:*"], commands=["+@all"])
    apps = [pattern_cluster.connect(node, "app", "secret", protocol=protocol) for node in NODES]
    for round in range(30):
        granted, denied = ("b:1", "a:1") if round % 2 == 0 else ("a:1", "b:1")
        admin.execute_command("ACL", "SETUSER", "app", "resetkeys", f"~{granted[0]}:*")
        for app in apps:
            app.get(granted)
            with pytest.raises(redis.exceptions.NoPermissionError):
                app.get(denied)


def test_a_user_deleted_while_connected_is_disconnected_everywhere(pattern_cluster):
    admin = pattern_cluster.connect(3, "default", "admin-password")
    admin.acl_setuser("leaving", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"])
    leaving = [pattern_cluster.connect(node, "leaving", "secret", retry=None) for node in NODES]
    for client in leaving:
        assert client.ping()
    assert admin.acl_deluser("leaving") == 1

    def is_out(client):
        try:
            client.ping()
            return False
        except (redis.exceptions.ConnectionError, redis.exceptions.AuthenticationError):
            return True

    for client in leaving:
        wait_until(lambda client=client: is_out(client))


def test_the_acl_commands_of_redis_py(pattern_cluster):
    admin = pattern_cluster.connect(1, "default", "admin-password")
    assert "keyspace" in admin.acl_cat()
    assert "get" in admin.acl_cat("read")
    assert len(admin.acl_genpass()) == 64
    admin.acl_setuser(
        "probe", enabled=True, reset=True, passwords=["+one", "+two"], categories=["+@read"], commands=["+set"],
        keys=["probe:*"], channels=["news"], selectors=[("+@write", "~extra:*")],
    )
    user = admin.acl_getuser("probe")
    assert "on" in user["flags"] and len(user["passwords"]) == 2
    assert user["commands"] == ["+set"] and "+@read" in user["categories"]
    assert [["commands", "-@all +@write"], ["keys", "~extra:*"]] == [list(pair) for pair in zip(user["selectors"][0][::2], user["selectors"][0][1::2])][:2]
    assert "probe" in admin.acl_users()
    assert admin.acl_dryrun("probe", "get", "probe:1") == "OK"
    assert "no permissions" in admin.acl_dryrun("probe", "get", "other")
    with pytest.raises(redis.exceptions.NoPermissionError):
        pattern_cluster.connect(1, "probe", "two").get("other")
    entry = admin.acl_log(count=1)[0]
    assert entry["reason"] == "key" and entry["object"] == "other" and entry["username"] == "probe"
    assert entry["client-info"]["user"] == "probe"
    assert admin.acl_log_reset()
    with pytest.raises(redis.exceptions.ResponseError, match="Unknown command or category name in ACL"):
        admin.acl_setuser("probe", commands=["+nosuchcommand"])


def test_everyday_use_through_a_follower(pattern_cluster):
    cache = pattern_cluster.connect(3, "litellm", "litellm-password")
    with cache.pipeline(transaction=False) as pipe:
        for number in range(200):
            pipe.set(f"litellm:cache:{number}", f"answer {number}", ex=600)
        assert all(pipe.execute())
    assert cache.mget(*[f"litellm:cache:{number}" for number in range(3)]) == ["answer 0", "answer 1", "answer 2"]
    assert cache.incr("litellm:rate_limit:user_456") == 1
    assert cache.expire("litellm:rate_limit:user_456", 60) and 0 < cache.ttl("litellm:rate_limit:user_456") <= 60
    cache.hset("litellm:h", mapping={"a": 1, "b": 2})
    assert cache.hgetall("litellm:h") == {"a": "1", "b": "2"}
    cache.rpush("litellm:l", "x", "y")
    assert cache.lpop("litellm:l", 2) == ["x", "y"]
    cache.zadd("litellm:z", {"m": 1.5})
    assert cache.zrange("litellm:z", 0, -1, withscores=True) in ([("m", 1.5)], [["m", 1.5]])
    admin = pattern_cluster.connect(1, "default", "admin-password")
    assert len([key for key in admin.scan_iter("litellm:cache:*", count=50) if key.split(":")[2].isdigit()]) == 200


def test_the_handshake_says_redis(pattern_cluster):
    admin = pattern_cluster.connect(1, "default", "admin-password", protocol=3)
    info = admin.info()
    assert info["redis_version"].startswith("7.") and info["arch_bits"] == 64
    assert "maxmemory_policy" in info
    if not AGAINST_VALKEY:
        assert not any("valkey" in name or "dragonfly" in name for name in info)
        assert admin.execute_command("HELLO", 3)["server"] == "redis"
    with pytest.raises(redis.exceptions.ResponseError, match="unknown command"):
        admin.execute_command("DPING")
    names = [client["name"] for client in admin.client_list()]
    assert len(names) >= 1
