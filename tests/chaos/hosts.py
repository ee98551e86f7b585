"""One machine as many hosts: each has a network namespace of its own on one bridge, with its own address.

Everything is made inside fresh network, mount and process namespaces (`alone`), so nothing of it is seen from outside,
two runs do not meet, and when the run ends, however it ends, every process and every interface of it is gone.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/clients"))
from broker import CACHE, SUITE_VARIABLES  # noqa: E402

SUBNET = "10.77.0"
# Where packets go that are to be lost: a MAC address that nobody has.
NOBODY = "02:00:00:00:de:ad"
START_TIMEOUT_S = 90
BUCKET = "esker-chaos"
# All that were started and not yet cleared away.
PROCESSES = []


def say(words):
    print(words, flush=True)


def alone(script, arguments):
    """Runs the script again, by the Python of the client suites, in namespaces of its own; returns once it is there."""
    if os.environ.get("ESKER_CHAOS_INSIDE") == "1":
        del os.environ["ESKER_CHAOS_INSIDE"]
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run/netns"], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    if os.geteuid() != 0:
        sys.exit("hosts of their own need root: run this as root")
    if not shutil.which("ip"):
        say("installing iproute2")
        subprocess.run("apt-get update -qq && apt-get install -y -qq --no-install-recommends iproute2", shell=True, check=True,
                       env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL)
    for suite in ("python", "grpc"):
        subprocess.run([ROOT / f"tests/clients/{suite}/run.sh", "install"], check=True)
    # Built here once, in the ordinary network.
    for server in ("minio", "etcd"):
        subprocess.run([ROOT / f"tests/support/{server}.sh", "install"], check=True, stdout=sys.stderr, env=servers())
    pathlib.Path("/run/netns").mkdir(exist_ok=True)
    os.environ["ESKER_CHAOS_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                          str(CACHE / "venv/bin/python"), "-B", script, *arguments])


def servers():
    """The newest etcd, where Go can build it; MinIO and nothing in its place."""
    own = {"ESKER_TEST_S3_KIND": "minio"}
    if shutil.which("go"):
        own["ESKER_TEST_ETCD_KIND"] = "go"
    return os.environ | own


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """The bridge and the hosts on it. The script itself is on the bridge, too, and is never cut off."""

    def __init__(self):
        run("ip", "link", "add", "bridge", "type", "bridge")
        run("ip", "link", "set", "bridge", "up")
        run("ip", "address", "add", f"{SUBNET}.1/24", "dev", "bridge")
        self.addresses = {}
        self.cuts = set()

    def add(self, name):
        address = f"{SUBNET}.{10 + len(self.addresses)}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"to-{name}", "master", "bridge", "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        self.addresses[name] = address
        return address

    def cut(self, one, other):
        """Packets between two hosts are lost in both directions; nobody is told. Connections stay, silent."""
        if (one, other) in self.cuts or (other, one) in self.cuts:
            return
        self.cuts.add((one, other))
        for at, to in ((one, other), (other, one)):
            run("ip", "-n", at, "neigh", "replace", self.addresses[to], "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")

    def heal(self, one, other):
        pair = next((pair for pair in ((one, other), (other, one)) if pair in self.cuts), None)
        if pair is None:
            return
        self.cuts.remove(pair)
        for at, to in (pair, pair[::-1]):
            run("ip", "-n", at, "neigh", "delete", self.addresses[to], "dev", "eth0")

    def heal_all(self):
        for pair in list(self.cuts):
            self.heal(*pair)

    def remove(self):
        for name in self.addresses:
            run("ip", "netns", "delete", name)
        run("ip", "link", "delete", "bridge")


class Process:
    """A command on a host. Only the process that was started is ever signalled."""

    def __init__(self, host, command, log, env=None, stdin=subprocess.DEVNULL, stdout=None):
        self.log = open(log, "ab")
        # `ip netns exec` becomes the command: the process id is its own.
        self.child = subprocess.Popen(["ip", "netns", "exec", host, *map(str, command)], env=env, stdin=stdin,
                                      stdout=stdout or self.log, stderr=self.log, start_new_session=True)
        # Somebody killed it, or asked it to stop: its end is no surprise.
        self.killed = self.asked = False
        PROCESSES.append(self)

    @property
    def pid(self):
        return self.child.pid

    def alive(self):
        return self.child.poll() is None

    def signal(self, number):
        if self.alive():
            self.child.send_signal(number)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        self.killed = True
        self.signal(signal.SIGKILL)
        self.child.wait()

    def ask_to_stop(self):
        """SIGTERM, once: brokers take a second one for a kill."""
        if not self.asked:
            self.asked = True
            self.resume()
            self.signal(signal.SIGTERM)

    def terminate(self, timeout_s):
        """SIGTERM; whether it ended by itself in time."""
        self.ask_to_stop()
        try:
            self.child.wait(timeout_s)
            return True
        except subprocess.TimeoutExpired:
            self.kill()
            return False


class Server:
    """etcd or MinIO, by its script in tests/support. Data outlives the process."""

    def __init__(self, name, folder, network, arguments):
        self.name, self.folder, self.arguments = name, pathlib.Path(folder), arguments
        self.address = network.add(name)
        self.pid = None

    def up(self):
        script = ROOT / f"tests/support/{self.name}.sh"
        subprocess.run(["ip", "netns", "exec", self.name, script, "start", self.folder, *self.arguments(self.address)],
                       check=True, env=servers(), stderr=open(f"{self.folder}.script.log", "ab"))
        self.pid = int((self.folder / "pid").read_text())

    def env(self):
        found = {}
        for line in (self.folder / "env").read_text().splitlines():
            key, _, value = line.removeprefix("export ").partition("=")
            found[key] = value.strip("'")
        return found

    def signal(self, number):
        if self.pid:
            os.kill(self.pid, number)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            # Its parent, the script, has ended: we are the parent of what is left over, as the first of our namespace.
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                while pathlib.Path(f"/proc/{self.pid}").exists():
                    time.sleep(0.01)
            self.pid = None


class Broker:
    """One broker on a host of its own."""

    def __init__(self, cluster, number):
        self.cluster, self.number, self.host = cluster, number, f"broker{number}"
        self.address = cluster.network.add(self.host)
        self.folder = cluster.folder / self.host
        self.folder.mkdir()
        self.log = cluster.folder / f"{self.host}.log"
        self.process = None
        self.starts = 0
        self.wiped = 0.0  # when its disk was lost

    @property
    def bootstrap(self):
        return f"{self.address}:9092"

    def spawn(self):
        self.starts += 1
        cluster = self.cluster
        command = [cluster.binary, "serve", "--data-dir", self.folder / "data", "--broker-id", self.number,
                   "--kafka-listen", self.bootstrap, "--http-listen", f"{self.address}:9096",
                   "--grpc-listen", f"{self.address}:9094",
                   "--metadata", f"etcd://{cluster.etcd.address}:2379", "--object-store", f"s3://{BUCKET}/run",
                   *cluster.flags]
        env = {k: v for k, v in os.environ.items() if k not in SUITE_VARIABLES and not k.startswith("ESKER_TEST_")}
        env |= {k: v for k, v in cluster.minio.env().items() if k.startswith("AWS_")}
        env |= {"AWS_ENDPOINT_URL": cluster.store_url, "RUST_BACKTRACE": "1"}
        self.process = Process(self.host, command, self.log, env)

    def alive(self):
        return self.process is not None and self.process.alive()

    def get(self, path, timeout_s=2):
        """An answer of its HTTP door, or None."""
        try:
            with urllib.request.urlopen(f"http://{self.address}:9096{path}", timeout=timeout_s) as reply:
                return reply.read().decode()
        except OSError:
            return None

    def ready(self):
        return self.get("/readyz", 1) is not None

    def wait(self, timeout_s=START_TIMEOUT_S):
        """Seconds until it is ready."""
        begin = time.monotonic()
        while not self.ready():
            if not self.alive():
                raise RuntimeError(f"{self.host} ended while starting:\n{self.tail()}")
            if time.monotonic() - begin > timeout_s:
                raise RuntimeError(f"{self.host} was not ready within {timeout_s} s:\n{self.tail()}")
            time.sleep(0.02)
        return time.monotonic() - begin

    def metric(self, name):
        """Sum over the labels; None if it does not answer."""
        text = self.get("/metrics", 5)
        if text is None:
            return None
        rows = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(name)]
        return sum(float(value) for key, value in rows if key == name or key.startswith(name + "{"))

    def resident_mb(self):
        if not self.alive():
            return 0
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0

    def tail(self, bytes_=3000):
        return self.log.read_text(errors="replace")[-bytes_:] if self.log.exists() else ""


class Cluster:
    """etcd, MinIO behind a proxy that makes faults, brokers, and a host for clients."""

    def __init__(self, folder, brokers, flags=(), seed=0, proxied=True):
        self.folder = pathlib.Path(folder)
        self.flags = list(map(str, flags))
        self.binary = os.path.abspath(os.environ.get("ESKER_BIN") or ROOT / "target/debug/esker")
        if not os.access(self.binary, os.X_OK):
            sys.exit(f"{self.binary} is not there: build it with `cargo build`, or name another one in ESKER_BIN")
        self.network = Network()
        self.etcd = Server("etcd", self.folder / "etcd", self.network, lambda address: [address, "2379"])
        self.minio = Server("minio", self.folder / "minio", self.network, lambda address: ["9000"])
        self.clients = self.network.add("clients")
        self.etcd.up()
        self.minio.up()
        self.make_bucket()
        self.proxy = Process("minio", [sys.executable, "-B", ROOT / "tests/chaos/proxy.py", self.minio.address, "9001",
                                       "127.0.0.1", "9000", str(seed)],
                             self.folder / "proxy.log", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.proxy.child.stdout.readline()  # it listens
        self.store_url = f"http://{self.minio.address}:9001"
        self.brokers = []
        for _ in range(brokers):
            self.add_broker()

    def add_broker(self):
        broker = Broker(self, len(self.brokers) + 1)
        self.brokers.append(broker)
        return broker

    def make_bucket(self):
        env = self.minio.env()
        # A server that has just started may answer 503.
        run("ip", "netns", "exec", "minio", "curl", "-sS", "--fail", "--retry", "20", "--retry-delay", "1", "-X", "PUT",
            "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{env['AWS_ACCESS_KEY_ID']}:{env['AWS_SECRET_ACCESS_KEY']}",
            f"{env['AWS_ENDPOINT_URL']}/{BUCKET}")

    def start(self):
        for broker in self.brokers:
            broker.spawn()
        for broker in self.brokers:
            broker.wait()

    @property
    def bootstrap(self):
        return ",".join(broker.bootstrap for broker in self.brokers)

    def store_fault(self, mode, client="*", share=1.0, delay_s=0.0):
        """How the proxy treats a client's requests from now on (see proxy.py)."""
        line = json.dumps({"client": client, "mode": mode, "share": share, "delay_s": delay_s})
        self.proxy.child.stdin.write(line.encode() + b"\n")
        self.proxy.child.stdin.flush()
        self.proxy.child.stdout.readline()

    def heal(self):
        """Everything runs, everybody reaches everybody."""
        self.network.heal_all()
        self.store_fault("pass")
        for server in (self.etcd, self.minio):
            if server.pid is None:
                server.up()
            server.resume()
        for broker in self.brokers:
            if broker.alive():
                broker.process.resume()

    def etcd_ask(self, path, request):
        """etcd's JSON gateway."""
        body = json.dumps(request).encode()
        asking = urllib.request.Request(f"http://{self.etcd.address}:2379{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asking, timeout=20) as reply:
            return json.loads(reply.read())

    def close(self):
        """Ends every process and takes the hosts away."""
        for process in PROCESSES:
            process.kill()
        PROCESSES.clear()
        for server in (self.etcd, self.minio):
            server.kill()
        self.network.remove()
