"""What is measured, and how. Every function takes servers and returns figures by their names.

It is long because each measure is one linear recipe, and they share their tools.
"""

import multiprocessing
import random
import re
import socket
import statistics
import subprocess
import sys
import time

from server import encode, load, note

VALUE_BYTES = 64
# The rules of an application on a shared cache; `default` may do everything.
CONFINED = ["~tenant:*", "&*", "+@read", "+@write", "-@admin", "-@dangerous", "+ping", "+config|get"]


def hammer(server, words, requests, pipeline, keys, clients=50, user=None):
    """One redis-benchmark run: operations per second, p99 in ms, and the server's CPU microseconds per operation."""
    command = [
        "redis-benchmark", "-h", "127.0.0.1", "-p", str(server.port), "-c", str(clients), "-P", str(pipeline),
        "-n", str(requests), "-r", str(keys), "--csv",
    ]
    if user:
        command += ["--user", user, "-a", "secret"]
    before = server.cpu_seconds()
    done = subprocess.run(command + words, capture_output=True, text=True)
    cpu = server.cpu_seconds() - before
    line = next((line for line in done.stdout.splitlines() if line.startswith('"') and not line.startswith('"test"')), None)
    if done.returncode != 0 or line is None or "error" in done.stdout.lower():
        sys.exit(f"redis-benchmark failed on {server.name}: {done.stdout}{done.stderr}")
    fields = [field.strip('"') for field in re.findall(r'"[^"]*"', line)]
    return {"ops": float(fields[-7]), "p99_ms": float(fields[-2]), "cpu_us": cpu / requests * 1e6}


def workloads(quick):
    """Name → what is measured: the words of one request, the pipeline, the number of requests, the connections, and the
    size of the values."""
    key, value = "key:__rand_int__", "x" * VALUE_BYTES
    types = {
        "incr": ["INCR", "counter:__rand_int__"],
        "hset": ["HSET", "hash:__rand_int__", "field", value],
        "lpush": ["LPUSH", "list:__rand_int__", value],
        "sadd": ["SADD", "members:__rand_int__", "element:__rand_int__"],
        "zadd": ["ZADD", "zset:__rand_int__", "1", "member:__rand_int__"],
        "xadd": ["XADD", "stream:__rand_int__", "*", "field", value],
        "mget10": ["MGET"] + [key] * 10,
        "mset10": ["MSET"] + [key, value] * 10,
    }
    strings = {"set": ["SET", key, value], "get": ["GET", key]}
    work = lambda words, pipeline, requests, clients=50, size=VALUE_BYTES: {
        "words": words, "pipeline": pipeline, "requests": requests // (50 if quick else 1), "clients": clients, "size": size,
    }
    plan = {}
    for pipeline, requests in ((1, 60_000), (16, 600_000), (64, 1_000_000)):
        for name, words in strings.items():
            plan[f"{name}_P{pipeline}"] = work(words, pipeline, requests)
    for name, words in types.items():
        plan[f"{name}_P16"] = work(words, 16, 60_000 if name.endswith("10") else 400_000)
    # A tenth of the keys for the largest values: they must fit.
    for size, pipeline, requests in ((16, 16, 400_000), (1024, 16, 300_000), (16384, 1, 40_000), (65536, 1, 20_000)):
        sized = {"set": ["SET", "sized:__rand_int__", "x" * size], "get": ["GET", "sized:__rand_int__"]}
        for name, words in sized.items():
            plan[f"{name}_{size}B_P{pipeline}"] = work(words, pipeline, requests, size=size)
    for clients in (500, 5000):
        plan[f"get_c{clients}_P1"] = work(strings["get"], 1, 60_000, clients)
        plan[f"get_c{clients}_P16"] = work(strings["get"], 16, 400_000, clients)
    plan["mixed_P16"] = work(strings["get"], 16, 500_000)
    return {name: plan[name] for name in ("get_P16", "set_P16")} if quick else plan


def mixed(server, work, keys):
    """Ten reads for each write, from two clients at once."""
    writes = subprocess.Popen(
        ["redis-benchmark", "-h", "127.0.0.1", "-p", str(server.port), "-c", "10", "-P", str(work["pipeline"]), "-n",
         str(work["requests"] // 10), "-r", str(keys), "--csv", "SET", "key:__rand_int__", "x" * VALUE_BYTES],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    before = server.cpu_seconds()
    result = hammer(server, work["words"], work["requests"], work["pipeline"], keys)
    writes.wait()
    cpu = server.cpu_seconds() - before
    return {**result, "cpu_us": cpu / (work["requests"] * 1.1) * 1e6}


def run_once(server, name, work, keys):
    if name.startswith("mixed"):
        return mixed(server, work, keys)
    keys = keys if work["size"] <= 1024 else max(keys // (work["size"] // 128), 100)
    return hammer(server, work["words"], work["requests"], work["pipeline"], keys, clients=work["clients"])


def measure_speed(servers, plan, rounds, keys):
    """Name of workload → name of server → one measurement per round."""
    value = b"x" * VALUE_BYTES
    for server in servers:
        load(server, (encode("SET", "key:%012d" % number, value) for number in range(keys)))
        for name, work in plan.items():  # Warm up, and create what is missing.
            run_once(server, name, {**work, "requests": max(work["requests"] // 5, 1000)}, keys)
    results = {name: {server.name: [] for server in servers} for name in plan}
    for turn in range(rounds):
        for name, work in plan.items():
            # Who goes first changes, so that nobody always meets the machine in the same state.
            for server in servers[turn % len(servers):] + servers[:turn % len(servers)]:
                results[name][server.name].append(run_once(server, name, work, keys))
                note(f"round {turn + 1}/{rounds} {name} {server.name} {results[name][server.name][-1]['cpu_us']:.2f} us/op")
    return results


def measure_confined(servers, rounds, keys, quick):
    """The same commands as `default` and as a user who may touch one prefix only, alternating."""
    requests = 30_000 if quick else 600_000
    value = "x" * VALUE_BYTES
    plan = {"get_P16": ["GET", "tenant:__rand_int__"], "set_P16": ["SET", "tenant:__rand_int__", value]}
    results = {}
    for server in servers:
        server.call("ACL", "SETUSER", "tenant", "on", ">secret", *CONFINED)
        load(server, (encode("SET", "tenant:%012d" % number, value) for number in range(keys)))
        results[server.name] = {name: {"default": [], "confined": []} for name in plan}
        for turn in range(rounds):
            for name, words in plan.items():
                for who, user in ((("default", None), ("confined", "tenant")) if turn % 2 else (("confined", "tenant"), ("default", None))):
                    results[server.name][name][who].append(hammer(server, words, requests, 16, keys, user=user)["cpu_us"])
        note(f"confined user measured on {server.name}")
    return results


def measure_memory(make_servers, keys):
    """Fresh processes: resident bytes per key of 16 bytes, with a string of 64 bytes or with five small elements."""
    value, results = b"x" * VALUE_BYTES, {}
    elements = [b"element:%d" % at for at in range(5)]
    small = max(keys // 10, 1000)
    types = {
        "string": (keys, lambda number: encode("SET", "k%015d" % number, value)),
        "hash": (small, lambda number: encode("HSET", "h%015d" % number, *(word for at in range(5) for word in (f"f{at}", "12345678")))),
        "set": (small, lambda number: encode("SADD", "s%015d" % number, *elements)),
        "sorted set": (small, lambda number: encode("ZADD", "z%015d" % number, *(word for at in range(5) for word in (str(at), elements[at])))),
        "list": (small, lambda number: encode("RPUSH", "l%015d" % number, *elements)),
        "integer set": (small, lambda number: encode("SADD", "i%015d" % number, *range(number % 1000, number % 1000 + 5))),
        "expiring": (small, lambda number: encode("SET", "e%015d" % number, value, "EX", 86400)),
    }
    for server in make_servers():
        figures = {}
        for name, (count, command) in types.items():
            # Each in a process of its own: what one type leaves free another would fill.
            server.start()
            time.sleep(1)
            empty = server.resident_bytes()
            load(server, (command(number) for number in range(count)))
            figures[name] = round((server.resident_bytes() - empty) / count, 1)
            figures["empty MB"] = round(empty / 1e6, 1)
            server.stop()
        results[server.name] = figures
        note(f"memory of {server.name}: {figures}")
    return results


def probe(server, seconds, keys, stop=None):
    """How long single reads take while others work, in ms, sorted."""
    times, dice = [], random.Random(3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not (stop and stop.is_set()):
            began = time.perf_counter()
            connection.sendall(encode("GET", "key:%012d" % dice.randrange(keys)))
            connection.recv(4096)
            times.append((time.perf_counter() - began) * 1e3)
            time.sleep(0.0005)
    return sorted(times)


def measure_snapshot(make_servers, keys, quick):
    """Snapshots under writes at full speed: how much memory grows, and what single reads feel, against the same without."""
    seconds, results = 3 if quick else 12, {}
    for server in make_servers():
        server.start()
        load(server, (encode("SET", "key:%012d" % number, b"x" * VALUE_BYTES) for number in range(keys)))
        writes = subprocess.Popen(
            ["redis-benchmark", "-h", "127.0.0.1", "-p", str(server.port), "-c", "20", "-P", "16", "-l", "-r", str(keys),
             "--csv", "SET", "key:__rand_int__", "y" * VALUE_BYTES],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        try:
            probe(server, 1, keys)
            quiet, before = probe(server, seconds, keys), server.held_bytes()
            peak, during, rounds = before, [], 0
            while rounds < (1 if quick else 4):
                rounds += 1
                server.call("BGSAVE")
                while True:
                    during += probe(server, 0.2, keys)
                    peak = max(peak, server.held_bytes())
                    if server.info("persistence", "rdb_bgsave_in_progress") == "0":
                        break
        finally:
            writes.kill()
            writes.wait()
        during.sort()
        at = lambda times, share: round(times[min(int(len(times) * share), len(times) - 1)], 2)
        results[server.name] = {
            "growth": round(peak / before - 1, 3), "p99.9 ms": at(quiet, 0.999), "p99.9 ms during": at(during, 0.999),
            "ratio": round(at(during, 0.999) / max(at(quiet, 0.999), 0.01), 2),
        }
        note(f"snapshot of {server.name}: {results[server.name]}")
        server.stop()
    return results


def worst_read(server, keys, work):
    """The longest of the single reads beside `work`, in ms; they come from a process of their own."""
    stop, times = multiprocessing.Event(), multiprocessing.SimpleQueue()
    prober = multiprocessing.Process(target=lambda: times.put(probe(server, 3600, keys, stop)[-1]))
    prober.start()
    time.sleep(0.2)
    work()
    time.sleep(0.2)
    stop.set()
    worst = times.get()
    prober.join()
    return round(worst, 1)


def measure_pauses(make_servers, quick):
    """The longest wait of a single read while a table grows to ten million keys, and while huge values are deleted; and what
    is left of few keys that expire among many that do not."""
    keys, elements, results = (50_000, 20_000, {}) if quick else (10_000_000, 5_000_000, {})
    names = lambda start: (b"element:%d" % number for number in range(start, start + 100))
    kinds = {
        "hash": lambda at: encode("HSET", "big:hash", *(word for name in names(at) for word in (name, b"value"))),
        "set": lambda at: encode("SADD", "big:set", *names(at)),
        "sorted set": lambda at: encode("ZADD", "big:sorted set", *(word for number, name in enumerate(names(at)) for word in (at + number, name))),
        "list": lambda at: encode("RPUSH", "big:list", *names(at)),
    }
    for server in make_servers():
        server.start()
        load(server, (encode("SET", "key:%012d" % number, b"x" * 8) for number in range(1000)))
        figures = {"quiet": worst_read(server, 1000, lambda: time.sleep(2))}
        grow = lambda: load(server, (encode("SET", "key:%012d" % number, b"x" * 8) for number in range(keys)), batch=100)
        figures["growing"] = worst_read(server, 1000, grow)
        for kind, command in kinds.items():
            load(server, (command(at) for at in range(0, elements, 100)), batch=20)
            figures[f"DEL {kind}"] = worst_read(server, 1000, lambda: (server.call("DEL", f"big:{kind}"), time.sleep(1)))
        # One key in a thousand expires.
        few = keys // 1000
        load(server, (encode("SET", "few:%012d" % number, b"x" * 8, "PX", 1000) for number in range(few)))
        time.sleep(3 if quick else 5)
        figures["few expired"] = int(server.call("DBSIZE")[1:]) - keys
        figures["of"] = few
        full = server.resident_bytes()
        load(server, (encode("DEL", "key:%012d" % number) for number in range(keys) if number % 10))
        time.sleep(1 if quick else 12)
        figures["resident with a tenth"] = round(server.resident_bytes() / full, 2)
        server.call("FLUSHALL")
        time.sleep(1 if quick else 12)
        figures["resident MB when empty"] = round(server.resident_bytes() / 1e6)
        results[server.name] = figures
        note(f"pauses of {server.name}: {figures}")
        server.stop()
    return results


def zipf_trace(requests, keys, seed=7):
    """Keys of a Zipf distribution with exponent 1, the same for every server: the density of a log-uniform number."""
    dice = random.Random(seed)
    return [int(keys ** dice.random()) for _ in range(requests)]


def replay(server, trace, batch=200):
    """Reads the keys of the trace through a cache: what is missing is written. The share of hits."""
    value, hits = b"x" * VALUE_BYTES, 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        replies = connection.makefile("rb")
        for start in range(0, len(trace), batch):
            part = trace[start:start + batch]
            connection.sendall(b"".join(encode("GET", "key:%012d" % number) for number in part))
            missing = []
            for number in part:
                if replies.readline().startswith(b"$-1"):
                    missing.append(number)
                else:
                    replies.readline()
                    hits += 1
            connection.sendall(b"".join(encode("SET", "key:%012d" % number, value) for number in missing))
            for _ in missing:
                line = replies.readline()
                if not line.startswith(b"+OK"):
                    sys.exit(f"{server.name} refuses to evict: {line!r}")
    return hits / len(trace)


def measure_eviction(make_servers, quick):
    """The share of hits on one trace, by policy: every server gets as much memory as it needs for the same number of keys."""
    kept, universe, requests = (5_000, 100_000, 100_000) if quick else (50_000, 1_000_000, 2_000_000)
    trace = zipf_trace(requests, universe)
    results = {}
    for policy in ("allkeys-lru", "allkeys-lfu"):
        for server in make_servers():
            server.start()
            load(server, (encode("SET", "key:%012d" % number, b"x" * VALUE_BYTES) for number in range(kept)))
            # What is used is counted every 100 ms.
            time.sleep(0.5)
            server.call("CONFIG", "SET", "maxmemory-policy", policy)
            server.call("CONFIG", "SET", "maxmemory", server.info("memory", "used_memory"))
            server.call("CONFIG", "RESETSTAT")
            share = replay(server, trace)
            results.setdefault(policy, {})[server.name] = {
                "hits": round(share, 4), "keys": int(server.call("DBSIZE")[1:]),
                "evicted": int(server.info("stats", "evicted_keys")),
            }
            note(f"{policy} {server.name} {results[policy][server.name]}")
            server.stop()
    return results


def measure_expiry(make_servers, quick):
    """Keys that live one to ten seconds, written all the time: the share of them that is expired and still there."""
    keys, seconds = (50_000, 12) if quick else (1_000_000, 30)
    results = {}
    for server in make_servers():
        server.start()
        dice, began, due, written, cpu, samples = random.Random(7), time.monotonic(), [], 0, server.cpu_seconds(), []
        while (elapsed := time.monotonic() - began) < seconds:
            lives = [dice.randint(1000, 10_000) for _ in range(keys // 250)]
            load(server, (encode("SET", "key:%012d" % (written + at), b"x" * VALUE_BYTES, "PX", life) for at, life in enumerate(lives)))
            now = time.monotonic()
            due += [now + life / 1000 for life in lives]
            written += len(lives)
            if elapsed > 10 + len(samples):
                there = int(server.call("DBSIZE")[1:])
                due = [at for at in due if at > time.monotonic()]
                samples.append((there - len(due)) / max(there, 1))
                note(f"{server.name} {elapsed:.0f} s: {there} keys, {samples[-1] * 100:.2f} % of them expired")
            time.sleep(max(0, began + written / keys * 5.5 - time.monotonic()))
        results[server.name] = {
            "expired_share": round(statistics.median(samples), 4), "expired_share_max": round(max(samples), 4),
            "cpu_share": round((server.cpu_seconds() - cpu) / seconds, 3), "written_per_second": round(written / seconds),
        }
        server.stop()
    return results
