"""redis-py's RedisCluster on three shard groups while slots move and a node that serves one of them is killed: what was
acknowledged to a user with `ack=quorum` is there, and every client goes on by itself."""

import os
import signal
import subprocess
import threading

import pytest
import redis
from conftest import AGAINST_VALKEY, Cluster, binary, wait_until
from redis.cluster import ClusterNode, RedisCluster

pytestmark = pytest.mark.skipif(AGAINST_VALKEY, reason="one Valkey without cluster mode is no cluster")

WRITERS = 3
SETS = 20
MORE = 100


class Writer:
    """Adds one number after the other to sets of many slots, and remembers what was acknowledged."""

    def __init__(self, cluster, name):
        self.acknowledged, self.errors, self.ends = [], [], threading.Event()
        startup = [ClusterNode("127.0.0.1", port) for port in cluster.ports]
        self.client = RedisCluster(
            startup_nodes=startup, username="queue", password="secret", decode_responses=True, socket_timeout=5, socket_connect_timeout=2
        )
        self.thread = threading.Thread(target=self._write, args=(name,))
        self.thread.start()

    def _write(self, name):
        number = 0
        while not self.ends.is_set():
            number += 1
            key, value = f"faults:{name}:{number % SETS}", str(number)
            try:
                self.client.sadd(key, value)
                self.acknowledged.append((key, value))
            except redis.exceptions.RedisError as error:
                # It may be there or not. The same client goes on with the next one.
                self.errors.append(f"{type(error).__name__}: {error}")

    def stop(self):
        self.ends.set()
        self.thread.join(60)
        self.client.close()


def move(cluster, node, to):
    """Slots go to another group, asked for through this node."""
    command = [binary("keywardctl"), "--addr", f"127.0.0.1:{cluster.ports[node - 1] + 1000}", "slots", "move", "0-5000", "--to", str(to)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("routing", ["proxy", "redirect"])
def test_what_was_acknowledged_survives_a_move_and_a_killed_primary(routing):
    cluster = Cluster(groups=3)
    writers = []
    try:
        wait_until(cluster.is_settled, cluster)
        for node in (1, 2, 3):
            cluster.connect(node).config_set("routing", routing)
        cluster.connect(1).execute_command("ACL", "SETUSER", "queue", "on", ">secret", "~*", "+@all", "ack=quorum")
        writers = [Writer(cluster, name) for name in range(WRITERS)]

        def go_on():
            counts = [len(writer.acknowledged) for writer in writers]
            said = lambda: [writer.errors[-3:] for writer in writers]
            went_on = lambda: all(len(writer.acknowledged) >= count + MORE for writer, count in zip(writers, counts))
            try:
                wait_until(went_on, cluster)
            except AssertionError as error:
                raise AssertionError(f"a client does not go on: {said()}") from error

        go_on()
        for to in (1, 0):
            moved = []
            # It may be told that the last move is still cleaned up.
            wait_until(lambda: moved.append(move(cluster, 1, to)) or moved[-1].returncode == 0, cluster)
            go_on()
        # One that serves a group, and that the moves did not go through.
        with cluster.connect(3) as last:
            os.kill(last.info("server")["process_id"], signal.SIGKILL)
        go_on()
        wait_until(lambda: move(cluster, 1, 1).returncode == 0, cluster)
        go_on()
        for writer in writers:
            writer.stop()
        with RedisCluster(host="127.0.0.1", port=cluster.ports[0], decode_responses=True) as reader:
            found = {key: reader.smembers(key) for key in {key for writer in writers for key, _ in writer.acknowledged}}
        missing = [(key, value) for writer in writers for key, value in writer.acknowledged if value not in found[key]]
        assert not missing, f"{len(missing)} of {sum(len(writer.acknowledged) for writer in writers)}: {missing[:5]}"
    finally:
        for writer in writers:
            writer.stop()
        cluster.stop()
