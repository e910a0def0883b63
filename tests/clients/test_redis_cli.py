"""The documents' literal commands, with the redis-cli that Debian ships."""

import re
import subprocess
import tempfile
import time

import pytest
import redis
from conftest import AGAINST_VALKEY, Cluster, binary, wait_until


def cli(cluster, node, *arguments, typed=None, terminal=True):
    """What redis-cli prints; as on a terminal unless told otherwise."""
    command = ["redis-cli", "-h", "127.0.0.1", "-p", str(cluster.ports[node - 1])]
    command += ["--no-raw"] if terminal else []
    done = subprocess.run(command + list(arguments), input=typed, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def test_the_documents_four_tests(pattern_cluster):
    for node in (1, 2, 3):
        # 1. Test admin access
        assert cli(pattern_cluster, node, "-a", "admin-password", "PING") == "PONG"
        # 2. Test user access (positive)
        litellm = ("-a", "litellm-password", "--user", "litellm")
        assert cli(pattern_cluster, node, *litellm, "SET", "litellm:test:key", "value") == "OK"
        assert cli(pattern_cluster, node, *litellm, "GET", "litellm:test:key") == '"value"'
        # 3. Test user isolation (negative)
        denied = cli(pattern_cluster, node, *litellm, "GET", "langfuse:test:key")
        assert denied == "(error) NOPERM " + pattern_cluster.denial("litellm", "langfuse:test:key")
        # 4. Verify ACL rules
        listed = cli(pattern_cluster, node, "-a", "admin-password", "ACL", "LIST")
        assert re.search(r'"user default on #[0-9a-f]{64} ~\* .*\+@all"', listed)
        assert re.search(r'"user litellm on #[0-9a-f]{64} ~litellm:\* .*\+@all"', listed)
        assert re.search(r'"user langfuse on #[0-9a-f]{64} ~langfuse:\* .*\+@all"', listed)


def test_the_documents_troubleshooting(pattern_cluster):
    assert cli(pattern_cluster, 2, "PING") == "(error) NOAUTH Authentication required."
    cli(pattern_cluster, 1, "-a", "litellm-password", "--user", "litellm", "SET", "litellm:seen", "1")
    scanned = cli(pattern_cluster, 2, "-a", "admin-password", "--scan", "--pattern", "*", terminal=False)
    assert "litellm:seen" in scanned.splitlines()
    shown = cli(pattern_cluster, 3, "-a", "admin-password", "ACL", "GETUSER", "litellm")
    assert '"~litellm:*"' in shown and '"+@all"' in shown
    assert cli(pattern_cluster, 3, "-a", "admin-password", "GET", "litellm:seen") == '"1"'


def test_the_session_of_the_issue(open_cluster):
    assert cli(open_cluster, 1, "ACL", "SETUSER", "litellm", "on", ">secret", "~litellm:*", "+@all") == "OK"
    litellm = ("--user", "litellm", "--pass", "secret")
    assert cli(open_cluster, 3, *litellm, "SET", "litellm:test:key", "value") == "OK"
    denied = cli(open_cluster, 2, *litellm, "GET", "langfuse:test:key")
    assert denied == "(error) NOPERM " + open_cluster.denial("litellm", "langfuse:test:key")


def test_redis_cli_modes(open_cluster):
    many = "".join(f"SET bulk:{number} x\r\n" for number in range(1000))
    piped = cli(open_cluster, 2, "--pipe", typed=many, terminal=False)
    assert "errors: 0, replies: 1000" in piped
    assert cli(open_cluster, 3, "-3", "HSET", "hash3", "f", "v") == "(integer) 1"
    assert cli(open_cluster, 3, "-3", "HGETALL", "hash3") == '1# "f" => "v"'
    assert cli(open_cluster, 3, "-n", "5", "SET", "elsewhere", "x") == "OK"
    assert cli(open_cluster, 1, "EXISTS", "elsewhere") == "(integer) 0"
    typed = cli(open_cluster, 1, typed="PING\nSET typed \"a b\"\nGET typed\n", terminal=False)
    assert typed.splitlines() == ["PONG", "OK", "a b"]
    assert "sampled" in cli(open_cluster, 1, "--bigkeys", terminal=False).lower()
    assert "redis_version:7." in cli(open_cluster, 1, "INFO", "server", terminal=False)
    if not AGAINST_VALKEY:
        assert "valkey" not in cli(open_cluster, 1, "INFO", "everything", terminal=False).lower()


def test_redis_cli_looks_over_the_keys(open_cluster):
    admin = open_cluster.connect(1)
    admin.flushall()
    admin.set("big:string", "x" * 5000)
    admin.rpush("big:list", *range(300))
    admin.hset("big:hash", mapping={f"f{number}": number for number in range(40)})
    admin.sadd("big:set", "a", "b")
    admin.zadd("big:zset", {"m": 1})
    admin.xadd("big:stream", {"f": "v"})
    for node in (1, 2, 3):
        found = cli(open_cluster, node, "--bigkeys", terminal=False)
        assert "Sampled 6 keys" in found and """'"big:string"' has 5000 bytes""" in found
        assert """'"big:list"' has 300 items""" in found
        assert "1 streams with 1 entries" in found and "1 sets with 2 members" in found
        weighed = cli(open_cluster, node, "--memkeys", terminal=False)
        assert "Sampled 6 keys" in weighed and 'string found \'"big:string"\'' in weighed
        assert sorted(cli(open_cluster, node, "--scan", terminal=False).splitlines()) == sorted(admin.keys("big:*"))


def test_redis_cli_finds_hot_keys_under_lfu(open_cluster):
    admin = open_cluster.connect(1)
    admin.config_set("maxmemory-policy", "allkeys-lfu")
    try:
        admin.set("hot", "x")
        for _ in range(2000):
            admin.get("hot")
        assert 'Hot key \'"hot"\' found so far' in cli(open_cluster, 1, "--hotkeys", terminal=False)
    finally:
        admin.config_set("maxmemory-policy", "noeviction")


def watched(cluster, node, *arguments, until, typed=None):
    """What redis-cli prints until it says `until`, of a mode that would go on for ever."""
    command = ["redis-cli", "-h", "127.0.0.1", "-p", str(cluster.ports[node - 1]), *arguments]
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=printed, stderr=subprocess.STDOUT, text=True)
        try:
            if typed:
                process.stdin.write(typed)
                process.stdin.flush()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                printed.seek(0)
                shown = printed.read()
                if re.search(until, shown, re.MULTILINE):
                    return shown
                time.sleep(0.02)
            raise AssertionError(f"{arguments} never said {until}:\n{shown}")
        finally:
            process.kill()
            process.wait()
            process.stdin.close()


def test_redis_cli_measures(open_cluster):
    assert re.search(r"keys +mem +clients", watched(open_cluster, 2, "--stat", "-i", "0.05", until=r"^\d+ +[\d.]+[BKMG]"))
    assert re.match(r"\d+ \d+ [\d.]+ \d+$", cli(open_cluster, 3, "--latency", "-i", "0.2", terminal=False))


def test_redis_cli_transactions_and_scripts(open_cluster):
    typed = "MULTI\nSET tx 1\nINCR tx\nEXEC\nDISCARD\n"
    for node, protocol in ((1, "-2"), (2, "-3"), (3, "-3")):
        shown = cli(open_cluster, node, protocol, typed=typed)
        assert shown.splitlines() == ["OK", "QUEUED", "QUEUED", "1) OK", "2) (integer) 2", "(error) ERR DISCARD without MULTI"]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write("redis.call('SET', KEYS[1], ARGV[1]) return {KEYS[1], ARGV[1], 3}")
        script.flush()
        shown = cli(open_cluster, 2, "--eval", script.name, "evaluated", ",", "said")
    assert shown.splitlines() == ['1) "evaluated"', '2) "said"', "3) (integer) 3"]
    assert cli(open_cluster, 3, "GET", "evaluated") == '"said"'


def test_redis_cli_subscribes(open_cluster):
    admin = open_cluster.connect(3)
    for node, protocol in ((1, "-2"), (2, "-3")):
        command = ["redis-cli", protocol, "-h", "127.0.0.1", "-p", str(open_cluster.ports[node - 1]), "SUBSCRIBE", f"news:{node}"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            assert [process.stdout.readline().strip() for _ in range(3)] == ["subscribe", f"news:{node}", "1"]
            admin.publish(f"news:{node}", "told")
            assert [process.stdout.readline().strip() for _ in range(3)] == ["message", f"news:{node}", "told"]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_redis_cli_helps_with_what_the_server_tells(open_cluster):
    assert "key [NX|XX] [GT|LT] [CH] [INCR] score member [score member ...]" in cli(open_cluster, 2, "help", "zadd", terminal=False)
    if not AGAINST_VALKEY:
        assert "name PREFIX first-prefix|NAMESPACE" in cli(open_cluster, 2, "help", "tenant", "create", terminal=False)


def test_redis_cli_copies_all_data(open_cluster, tmp_path):
    """Through any node; a server that wants to follow the writes as well is refused."""
    admin = open_cluster.connect(1)
    admin.flushall()
    admin.mset({f"copied:{number}": "x" * 1000 for number in range(3000)})
    for node in (1, 2, 3):
        file = tmp_path / f"copy-{node}.rdb"
        shown = cli(open_cluster, node, "--rdb", str(file), terminal=False)
        checked = subprocess.run(["redis-check-rdb", str(file)], capture_output=True, text=True, timeout=60).stdout
        assert "RDB looks OK!" in checked and "3000 keys read" in checked, (shown, checked)
    if not AGAINST_VALKEY:
        for refused in (("REPLCONF", "listening-port", "1"), ("SYNC",), ("PSYNC", "?", "-1")):
            with pytest.raises(redis.exceptions.ResponseError, match=f"{refused[0]} is not available: nodes replicate"):
                open_cluster.connect(2).execute_command(*refused)


@pytest.mark.skipif(AGAINST_VALKEY, reason="one Valkey without cluster mode is no cluster")
def test_redis_cli_copies_all_data_of_several_groups(tmp_path):
    """One file with each key once, through any node, also while slots are on their way to another group."""
    cluster = Cluster(groups=3)
    try:
        wait_until(cluster.is_settled, cluster)
        admin = cluster.connect(1)
        for number in range(3000):
            admin.set(f"copied:{number}", "x" * 100)
        admin.execute_command("FUNCTION", "LOAD", "#!lua name=copied\nredis.register_function('f', function() return 1 end)")
        assert admin.wait(2, 20_000) == 2

        def copy(node, name):
            file = tmp_path / f"{name}-{node}.rdb"
            # redis-cli writes over what is there: of a longer file before, the end would stay.
            file.unlink(missing_ok=True)
            shown = cli(cluster, node, "--rdb", str(file), terminal=False)
            checked = subprocess.run(["redis-check-rdb", str(file)], capture_output=True, text=True, timeout=60).stdout
            assert "RDB looks OK!" in checked and "3000 keys read" in checked, (shown, checked)
            content = file.read_bytes()
            names = re.findall(rb"copied:\d+", content)
            assert len(names) == len(set(names)) == 3000
            assert content.count(b"register_function") == 1

        for node in (1, 2, 3):
            copy(node, "copy")
        for to in ("1", "2", "0"):
            move = [binary("keywardctl"), "--addr", f"127.0.0.1:{cluster.ports[0] + 1000}", "slots", "move", "0-5000", "--to", to]
            moving = subprocess.Popen(move)
            while moving.poll() is None:
                copy(1, f"moving-to-{to}")
            # It may be told that the old group is still cleaned up; told again, the move has nothing to do.
            wait_until(lambda: subprocess.run(move).returncode == 0, cluster)
            for node in (1, 2, 3):
                copy(node, f"moved-to-{to}")
    finally:
        cluster.stop()


def test_redis_cli_copies_functions_alone(open_cluster, tmp_path):
    admin = open_cluster.connect(1)
    admin.flushall()
    admin.set("not-copied", "x")
    admin.function_load("#!lua name=copied\nredis.register_function('f', function() return 1 end)", replace=True)
    try:
        for node in (1, 2, 3):
            file = tmp_path / f"functions-{node}.rdb"
            shown = cli(open_cluster, node, "--functions-rdb", str(file), terminal=False)
            checked = subprocess.run(["redis-check-rdb", str(file)], capture_output=True, text=True, timeout=60).stdout
            assert "RDB looks OK!" in checked and "0 keys read" in checked, (shown, checked)
            assert b"register_function" in file.read_bytes()
    finally:
        admin.function_delete("copied")


@pytest.mark.parametrize("options", [[], ["-3", "-P", "8"]], ids=["RESP2", "RESP3"])
def test_redis_benchmark_runs_all_of_its_tests(open_cluster, options):
    command = ["redis-benchmark", "-p", str(open_cluster.ports[1]), "-n", "200", "-c", "5", "-q", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    for name in ("PING_INLINE", "SET", "LPUSH", "SADD", "HSET", "SPOP", "ZADD", "ZPOPMIN", "LRANGE_600 (first 600 elements)", "MSET (10 keys)"):
        assert f"{name}: " in done.stdout, (name, done.stdout[-500:], done.stderr)
    assert done.returncode == 0 and "rror" not in done.stderr


def test_redis_cli_asks_about_a_cluster(open_cluster):
    address = f"127.0.0.1:{open_cluster.ports[0]}"
    for question in ("info", "check"):
        shown = cli(open_cluster, 1, "--cluster", question, address, terminal=False)
        if AGAINST_VALKEY:
            assert "is not configured as a cluster node" in shown
        elif "is not configured as a cluster node" not in shown:
            assert "All 16384 slots covered" in shown or "keys in" in shown
