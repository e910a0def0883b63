"""Servers to be measured: how each is started, what it used, how it is filled. Knows no workload."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

JEMALLOC = pathlib.Path("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2")


class Server:
    """One running server, alone in its folder."""

    def __init__(self, name, program, threads=None, preload=None):
        self.name, self.program, self.threads, self.preload = name, shutil.which(program) or program, threads, preload
        self.process = None

    def start(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="keyward-bench-"))
        self.port = free_port()
        environment = dict(os.environ)
        if self.preload:
            environment["LD_PRELOAD"] = str(self.preload)
        log = open(self.folder / "log", "w")
        self.process = subprocess.Popen(
            self._command(), cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        deadline = time.monotonic() + 30
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{self.name} does not start:\n" + (self.folder / "log").read_text())
            time.sleep(0.05)
        return self

    def _command(self):
        if pathlib.Path(self.program).name == "keyward":
            ports = [free_port() for _ in range(3)]
            command = [self.program, "serve", "--data-dir", str(self.folder / "data"), "--bind", f"127.0.0.1:{self.port}"]
            for flag, port in zip(("--admin-bind", "--http-bind", "--peer-bind"), ports):
                command += [flag, f"127.0.0.1:{port}"]
            command += ["--save", ""]
            return command + (["--threads", str(self.threads)] if self.threads else [])
        return [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]

    def _answers(self):
        try:
            return self.call("PING") == b"+PONG"
        except OSError:
            return False

    def call(self, *words):
        """One command; the first line of its reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(encode(*words))
            return connection.makefile("rb").readline().strip()

    def info(self, section, field):
        """One field of INFO."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(encode("INFO", section))
            replies = connection.makefile("rb")
            text = replies.read(int(replies.readline()[1:])).decode()
        return re.search(rf"^{field}:(.*?)\r?$", text, re.M).group(1)

    def cpu_seconds(self):
        nanoseconds = 0
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                nanoseconds += int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                pass
        return nanoseconds / 1e9

    def held_bytes(self):
        """Memory of the process and of those it forked; what they share counts once."""
        held = 0
        processes = [self.process.pid]
        for process in processes:
            try:
                for task in pathlib.Path(f"/proc/{process}/task").iterdir():
                    processes += [int(child) for child in (task / "children").read_text().split()]
                text = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text()
                held += int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1)) * 1024
            except (FileNotFoundError, ProcessLookupError, AttributeError):
                pass  # It has ended meanwhile.
        return held

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def encode(*words):
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        word = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
    return b"".join(parts)


def load(server, commands, batch=2000):
    """Sends many commands in large writes and reads their replies away; every reply must be one line without an error."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        replies = connection.makefile("rb")
        pending, count = [], 0

        def flush():
            connection.sendall(b"".join(pending))
            for _ in range(count):
                line = replies.readline()
                if not line or line.startswith(b"-"):
                    sys.exit(f"{server.name} refuses to be loaded: {line!r}")

        for command in commands:
            pending.append(command)
            count += 1
            if count == batch:
                flush()
                pending, count = [], 0
        flush()


def note(text):
    print(text, file=sys.stderr, flush=True)


def variants(given, one_thread_only):
    servers = []
    for name, program in given:
        kind = pathlib.Path(program).name
        if kind == "keyward":
            servers.append(Server(name, program, threads=1))
            if not one_thread_only:
                servers.append(Server(f"{name}-2t", program, threads=2))
            continue
        servers.append(Server(name, program))
        if "valkey" in kind and JEMALLOC.exists():
            servers.append(Server(f"{name}-jemalloc", program, preload=JEMALLOC))
    return servers
