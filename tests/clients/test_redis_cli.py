"""The documents' literal commands, with the redis-cli that Debian ships."""

import re
import subprocess

from conftest import AGAINST_VALKEY


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
