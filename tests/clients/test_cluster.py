"""Cluster clients: they learn the map from CLUSTER SLOTS and follow it, whether nodes forward commands or redirect clients.

The same stories run with one shard group and with three, in both modes of `routing`, and with replicas asked for reads.
"""

import threading
import uuid

import pytest
import redis
from conftest import AGAINST_VALKEY, Cluster, wait_until
from redis.cluster import ClusterNode, LoadBalancingStrategy, RedisCluster

pytestmark = pytest.mark.skipif(AGAINST_VALKEY, reason="one Valkey without cluster mode is no cluster")

ANSWER_SECONDS = 20


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
def routing(request, nodes):
    for node in (1, 2, 3):
        with nodes.connect(node) as client:
            client.config_set("routing", request.param)
    return request.param


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def connect(request, nodes, routing):
    opened = []

    def connect(**more):
        startup = [ClusterNode("127.0.0.1", port) for port in nodes.ports]
        client = RedisCluster(
            startup_nodes=startup, decode_responses=True, protocol=request.param, socket_timeout=ANSWER_SECONDS, **more
        )
        opened.append(client)
        return client

    yield connect
    for client in opened:
        client.close()


@pytest.fixture
def key():
    return f"cluster:{uuid.uuid4().hex}"


def test_the_map_names_every_node_with_its_role(connect, nodes):
    client = connect()
    roles = {node.port: node.server_type for node in client.get_nodes()}
    assert sorted(roles) == sorted(nodes.ports)
    assert sorted(roles.values()) == ["primary"] * nodes.groups + ["replica"] * (3 - nodes.groups)
    assert client.cluster_info()["cluster_state"] == "ok"
    assert len(client.cluster_nodes()) == 3


def test_a_redirecting_node_is_left_for_the_right_one(nodes, routing, key):
    with nodes.connect(1) as first:
        slot = first.cluster("KEYSLOT", key)
        serving = [row[2][1] for row in first.execute_command("CLUSTER SLOTS") if row[0] <= slot <= row[1]]
    elsewhere = [port for port in nodes.ports if port not in serving]
    assert len(elsewhere) == 2
    with redis.Redis(host="127.0.0.1", port=elsewhere[0], single_connection_client=True, decode_responses=True) as client:
        if routing == "redirect":
            with pytest.raises(redis.exceptions.MovedError):
                client.set(key, "x")
        else:
            assert client.set(key, "x")


def test_keys_of_many_slots_are_written_and_read(connect, key):
    client = connect()
    for number in range(100):
        assert client.set(f"{key}:{number}", number)
    assert [client.get(f"{key}:{number}") for number in range(100)] == [str(number) for number in range(100)]
    assert client.mget_nonatomic([f"{key}:{number}" for number in range(5)]) == ["0", "1", "2", "3", "4"]
    assert client.delete(*[f"{key}:{number}" for number in range(100)]) == 100


def test_a_pipeline_over_many_slots_is_answered_in_order(connect, key):
    client = connect()
    with client.pipeline() as pipe:
        for number in range(200):
            pipe.set(f"{key}:{number}", number)
            pipe.get(f"{key}:{number}")
        answers = pipe.execute()
    assert answers[1::2] == [str(number) for number in range(200)]


def test_a_transaction_is_carried_out_as_one(connect, key):
    client = connect()
    with client.pipeline(transaction=True) as pipe:
        pipe.set(f"{{{key}}}:a", "1").incr(f"{{{key}}}:a").lpush(f"{{{key}}}:l", "x")
        assert pipe.execute()[1:] == [2, 1]


def test_a_watched_key_that_changes_ends_the_transaction(connect, key):
    client, other = connect(), connect()
    with client.pipeline(transaction=True) as pipe:
        pipe.watch(key)
        other.set(key, "other")
        pipe.multi()
        pipe.set(key, "mine")
        with pytest.raises(redis.exceptions.WatchError):
            pipe.execute()
    assert client.get(key) == "other"


def test_scripts_run_where_their_keys_are(connect, key):
    client = connect()
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert script(keys=[key], args=[5]) == 5
    assert client.eval("return {KEYS[1], ARGV[1]}", 1, key, "x") == [key, "x"]


def test_messages_reach_listeners(connect, key):
    client = connect()
    listener = client.pubsub()
    listener.subscribe(key)
    listener.psubscribe(key + "*")
    for _ in range(2):
        assert listener.get_message(timeout=ANSWER_SECONDS)["type"] in ("subscribe", "psubscribe")
    client.publish(key, "hello")
    kinds = {listener.get_message(timeout=ANSWER_SECONDS)["type"] for _ in range(2)}
    assert kinds == {"message", "pmessage"}
    listener.close()


def test_messages_of_shard_channels_reach_listeners(connect, key):
    client = connect()
    listener = client.pubsub()
    listener.ssubscribe(key)
    heard = wait_until(lambda: listener.get_sharded_message(timeout=1), seconds=ANSWER_SECONDS)
    assert heard["type"] == "ssubscribe"
    client.spublish(key, "hello")
    heard = wait_until(lambda: listener.get_sharded_message(timeout=1), seconds=ANSWER_SECONDS)
    assert (heard["type"], heard["data"]) == ("smessage", "hello")
    listener.close()


def test_who_waits_is_served(connect, key):
    client, other = connect(), connect()
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(client.blpop(key, timeout=ANSWER_SECONDS)))
    waiting.start()
    wait_until(lambda: any(info["blocked_clients"] for info in other.info("clients", target_nodes=RedisCluster.ALL_NODES).values()))
    other.rpush(key, "element")
    waiting.join(ANSWER_SECONDS)
    assert [list(answer) for answer in answers] == [[key, "element"]]


def test_replicas_answer_reads_when_asked(connect, key):
    client = connect(load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN)
    client.set(key, "x")
    wait_until(lambda: all(client.get(key) == "x" for _ in range(6)), seconds=ANSWER_SECONDS)


def test_all_keys_are_walked_over_once(connect, key, nodes, routing):
    client = connect()
    for number in range(50):
        client.set(f"{key}:{number}", "x")
    found = list(client.scan_iter(match=f"{key}:*", target_nodes=RedisCluster.PRIMARIES))
    # With routing proxy any node is the whole cache.
    times = nodes.groups if routing == "proxy" else 1
    assert sorted(found) == sorted([f"{key}:{number}" for number in range(50)] * times)
