#!/usr/bin/env python3
"""Starts, kills and restarts one broker for the client suites, the scenarios and the benchmark.

The broker is Esker on a local directory (lane `file`), Esker on an S3 server (lane `s3`), or a real Apache Kafka
(lane `kafka`), which is the reference that every suite has to pass on too.

    broker.py --dir D start --lane file|s3|kafka     fresh data under D, waits until it answers
    broker.py --dir D restart [--signal TERM|KILL]   ends the process, waits for it, starts it on the same data and port
    broker.py --dir D kill                           kill -9, and leaves it down
    broker.py --dir D up                             starts it again after `kill` or `stop`
    broker.py --dir D stop                           SIGTERM, then SIGKILL after 20 s
    broker.py --dir D info                           what is running, as JSON

What was started is remembered in D/broker.json; only the process with that id is ever signalled. Standard library only.
"""

import argparse
import base64
import fcntl
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "esker" / "clients"
# What the suites tell each other in the environment; nothing of it is for the broker, which warns of variables that it does not know.
SUITE_VARIABLES = {"ESKER_BIN", "ESKER_BOOTSTRAP", "ESKER_BROKER_DIR", "ESKER_BROKER_SCRIPT", "ESKER_LANE",
                   "ESKER_SUITE_TIMEOUT_S", "ESKER_SUITES_AT_ONCE"}
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 20


def free_port() -> int:
    """A port that nobody listens on, below the range that the kernel hands to outgoing connections."""
    import random

    for _ in range(200):
        port = random.randrange(20000, 32000)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise SystemExit("no free port between 20000 and 32000")


def kafka_lib() -> pathlib.Path:
    """The folder with the jars of the reference broker (see reference/pom.xml); fetched by Maven once."""
    pom = ROOT / "tests/clients/reference/pom.xml"
    version = pom.read_text().split("<kafka.version>")[1].split("<")[0]
    folder = CACHE / f"kafka-{version}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "reference.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            print(f"fetching Apache Kafka {version} from Maven into {folder}", file=sys.stderr)
            subprocess.run(
                ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime",
                 f"-DoutputDirectory={folder}/lib"],
                check=True, stdout=sys.stderr)
            (folder / "complete").touch()
    return folder / "lib"


def kafka_version() -> str:
    return next(kafka_lib().glob("kafka-server-4*.jar")).stem.removeprefix("kafka-server-")


def api_versions_answered(port: int) -> bool:
    """One ApiVersions v0 request answered: the broker serves."""
    body = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as s:
            s.settimeout(2)
            s.sendall(struct.pack(">i", len(body)) + body)
            return len(s.recv(8)) > 0
    except OSError:
        return False


class Broker:
    """One broker and its directory."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        self.file = self.folder / "broker.json"
        self.state = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.child = None

    # -- life

    def start(self, lane, settings=None, extra_args=(), heap="512m", jvm=()):
        """Fresh data. `settings` are Kafka server properties (reference) and are ignored by Esker."""
        if self.alive():
            raise SystemExit(f"a broker already runs in {self.folder}")
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self.folder / f"data-{uuid.uuid4().hex[:8]}"
        data.mkdir()
        self.state = {"lane": lane, "port": free_port(), "http": free_port(), "grpc": free_port(), "data": str(data), "env": {}}
        getattr(self, f"_prepare_{lane}")(data, settings or {}, list(extra_args), heap, list(jvm))
        self.up()

    def up(self):
        """Starts the process on the data that is there, waits until it answers."""
        log = open(self.folder / "broker.log", "ab")
        env = {k: v for k, v in os.environ.items() if k not in SUITE_VARIABLES and not k.startswith("ESKER_TEST_")}
        env |= {k: v for k, v in self.state["env"].items() if not k.startswith("ESKER_TEST_")}
        self.child = subprocess.Popen(self.state["command"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env,
                                      start_new_session=True, cwd=self.folder)
        self.state["pid"] = self.child.pid
        self._save()
        begin = time.monotonic()
        while not self._ready():
            if self.child.poll() is not None:
                tail = (self.folder / "broker.log").read_text(errors="replace")[-3000:]
                raise SystemExit(f"the broker ended with {self.child.returncode} while starting:\n{tail}")
            if time.monotonic() - begin > START_TIMEOUT_S:
                raise SystemExit(f"the broker did not answer within {START_TIMEOUT_S} s; see {self.folder}/broker.log")
            time.sleep(0.02)
        self.state["start_seconds"] = round(time.monotonic() - begin, 3)
        self._save()

    def end(self, signal_number):
        """Sends the signal and waits until the process is gone."""
        pid = self.state.get("pid")
        if not pid or not self.alive():
            return
        os.kill(pid, signal_number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.alive():
            if time.monotonic() > deadline:
                print(f"the broker did not stop within {STOP_TIMEOUT_S} s of signal {signal_number}: killing it", file=sys.stderr)
                os.kill(pid, signal.SIGKILL)
                deadline += 1e9
            time.sleep(0.01)

    def kill(self):
        self.end(signal.SIGKILL)

    def stop(self):
        self.end(signal.SIGTERM)
        if server := self.state.get("s3"):
            subprocess.run([str(ROOT / "tests/support/minio.sh"), "stop", server], check=False, stdout=sys.stderr)
            self.state.pop("s3")
            self._save()

    def restart(self, signal_number):
        self.end(signal_number)
        self.up()

    def alive(self) -> bool:
        pid = self.state.get("pid")
        if not pid:
            return False
        if self.child is not None and self.child.pid == pid and self.child.poll() is not None:
            return False
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        # A killed process shows as a zombie before its last thread is gone, and with that its locks.
        fields = stat.rsplit(")", 1)[1].split()
        return fields[0] not in ("Z", "X") or int(fields[17]) > 1

    # -- what it is

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.state['port']}"

    def server(self) -> str:
        return self.state["server"]

    def metrics(self) -> str:
        """Prometheus text of an Esker broker; empty for Kafka."""
        if self.state["lane"] == "kafka":
            return ""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.state['http']}/metrics", timeout=10) as reply:
            return reply.read().decode()

    # -- the lanes

    def _prepare_kafka(self, data, settings, _extra, heap, jvm):
        controller = free_port()
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.state['port']},CONTROLLER://127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(data / "logs"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            **settings,
        }
        config = self.folder / "server.properties"
        config.write_text("".join(f"{k}={v}\n" for k, v in properties.items()))
        java = ["java", f"-Xmx{heap}", f"-Xms{heap}", *jvm, "-Dlog4j2.level=WARN", "-cp", f"{kafka_lib()}/*"]
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        with open(self.folder / "format.log", "wb") as log:
            subprocess.run(java + ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(config)], check=True,
                           stdout=log, stderr=log)
        self.state["server"] = f"Apache Kafka {kafka_version()}, KRaft, one node, -Xmx{heap}"
        self.state["command"] = java + ["kafka.Kafka", str(config)]

    def _esker(self) -> str:
        binary = os.path.abspath(os.environ.get("ESKER_BIN") or ROOT / "target/debug/esker")
        if not os.access(binary, os.X_OK):
            raise SystemExit(f"{binary} is not there: build it with `cargo build`, or name another one in ESKER_BIN")
        return binary

    def _prepare_esker(self, data, extra, store):
        binary = self._esker()
        version = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.strip()
        self.state["server"] = f"{version} on {store}"
        self.state["command"] = [
            binary, "serve", "--data-dir", str(data), "--kafka-listen", self.bootstrap,
            "--http-listen", f"127.0.0.1:{self.state['http']}", "--grpc-listen", f"127.0.0.1:{self.state['grpc']}",
            # As on the reference: a new group waits for no further members.
            "--group-initial-rebalance-delay", "0ms", *extra]

    def _prepare_file(self, data, _settings, extra, _heap, _jvm):
        self._prepare_esker(data, extra, f"file://{data}")

    def _prepare_s3(self, data, _settings, extra, _heap, _jvm):
        """The S3 server of the other tests: `minio.sh start DIR` writes the environment to DIR/env."""
        folder = self.folder / "s3"
        folder.mkdir()
        subprocess.run([str(ROOT / "tests/support/minio.sh"), "start", str(folder)], check=True, stdout=sys.stderr)
        self.state["s3"] = str(folder)
        self._save()
        env = {}
        for line in (folder / "env").read_text().splitlines():
            key, _, value = line.removeprefix("export ").partition("=")
            env[key] = value.strip("'")
        self.state["env"] = env
        server = env["ESKER_TEST_S3_SERVER"]
        # A server that has just started says for a moment that it is ready and answers 503 all the same.
        subprocess.run(["curl", "-sS", "--fail", "--retry", "30", "--retry-delay", "1", "-X", "PUT", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user",
                        f"{env['AWS_ACCESS_KEY_ID']}:{env['AWS_SECRET_ACCESS_KEY']}", f"{env['AWS_ENDPOINT_URL']}/esker-clients"],
                       check=True, stdout=sys.stderr)
        self._prepare_esker(data, ["--object-store", "s3://esker-clients/suite", *extra], f"s3:// ({server})")

    # -- inside

    def _ready(self) -> bool:
        return api_versions_answered(self.state["port"])

    def _save(self):
        partial = self.file.with_suffix(".part")
        partial.write_text(json.dumps(self.state, indent=1))
        partial.replace(self.file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start")
    start.add_argument("--lane", choices=["file", "s3", "kafka"], required=True)
    restart = commands.add_parser("restart")
    restart.add_argument("--signal", choices=["TERM", "KILL"], default="KILL")
    for name in ("kill", "up", "stop", "info"):
        commands.add_parser(name)
    args = parser.parse_args()
    broker = Broker(args.dir)
    if args.command == "start":
        broker.start(args.lane)
    elif args.command == "restart":
        broker.restart(getattr(signal, f"SIG{args.signal}"))
    elif args.command == "info":
        print(json.dumps({**broker.state, "alive": broker.alive()}))
    else:
        getattr(broker, args.command)()


if __name__ == "__main__":
    main()
