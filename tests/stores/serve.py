"""Object stores on free ports of this machine, for as long as a command runs.

    serve.py VENV NODE COMMAND...

VENV holds SeaweedFS (requirements.txt), NODE holds Azurite (package.json) and may be empty: then there is no Azure store.
COMMAND finds the URLs in IP2P_TEST_STORES, and addresses and keys in the clouds' own variables.
IP2P_TEST_S3_PID names a file with the number of SeaweedFS's process: who kills it sees it start again on the same data.
The servers end with the command, however this ends. `run.sh` beside this file installs what is needed.
"""

import base64
import collections
import contextlib
import ctypes
import datetime
import hashlib
import hmac
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request

# Longest wait for a server to say that it is ready, in seconds.
PATIENCE = 60
# Pause before a server that ended is started again, in seconds.
RESTART = 0.5
# The emulator's account, the same everywhere: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def free_ports(count: int) -> list[int]:
    """Ports that are free, and so are those 10000 above: SeaweedFS speaks gRPC there."""
    found = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            port = random.randrange(12000, 30000)
            try:
                for number in (port, port + 10000):
                    taken = held.enter_context(socket.socket())
                    taken.bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(port)
    return found


def end_with_parent():
    """The kernel ends a child whose parent was killed."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """A process that is ready once it has written `ready`; when it ends before it is stopped, it starts again."""

    def __init__(self, name: str, command: list, ready: str, cwd: pathlib.Path):
        self.name, self.ready, self.last = name, ready, collections.deque(maxlen=40)
        self.command, self.cwd = [str(word) for word in command], cwd
        self.pid_file = cwd / f"{name}.pid"
        self.is_ready, self.is_over = threading.Event(), threading.Event()
        self.process = None
        # The kernel ends a child with the thread that started it, so this one starts and reads.
        threading.Thread(target=self.keep, daemon=True).start()

    def keep(self):
        while not self.is_over.is_set():
            self.process = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                preexec_fn=end_with_parent,
            )
            self.pid_file.write_text(str(self.process.pid))
            for line in self.process.stdout:
                self.last.append(line)
                if self.ready in line:
                    self.is_ready.set()
            self.process.wait()
            self.pid_file.unlink(missing_ok=True)
            self.is_over.wait(RESTART)

    def wait(self):
        if not self.is_ready.wait(PATIENCE):
            sys.exit(f"{self.name} does not get ready. Its last words:\n{''.join(self.last)}")

    def stop(self):
        self.is_over.set()
        if self.process:
            self.process.kill()
            self.process.wait()


def seaweedfs(venv: str, work: pathlib.Path) -> tuple[Server, dict]:
    master, volume, filer, s3, admin = free_ports(5)
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "tests", "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}], "actions": actions}
    config, data = work / "s3.json", work / "seaweedfs"
    config.write_text(json.dumps({"identities": [identity]}))
    data.mkdir()
    # The defaults listen on all addresses and report usage.
    private = "-ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false -admin.ui=false -webdav=false"
    ports = f"-master.port={master} -volume.port={volume} -filer.port={filer} -s3.port={s3} -admin.port={admin}"
    unused = "-s3.port.iceberg=0 -s3.port.lance=0"
    files = [f"-dir={data}", f"-s3.config={config}", "-bucket=test"]
    command = [pathlib.Path(venv) / "bin/weed", "-logtostderr=true", "mini", *f"{private} {ports} {unused}".split(), *files]
    server = Server("SeaweedFS", command, "ready to use", work)
    environment = {
        "AWS_ENDPOINT": f"http://127.0.0.1:{s3}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
    }
    return server, environment


def azurite(node: str, work: pathlib.Path) -> tuple[Server, dict]:
    [port] = free_ports(1)
    flags = f"--blobHost 127.0.0.1 --blobPort {port} --silent --disableTelemetry --skipApiVersionCheck".split()
    command = [pathlib.Path(node) / "node_modules/.bin/azurite-blob", *flags, "--location", work / "azurite"]
    server = Server("Azurite", command, "successfully listens on", work)
    environment = {
        "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}",
        "AZURE_ALLOW_HTTP": "true",
        "AZURE_STORAGE_ACCOUNT_NAME": AZURITE_ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": AZURITE_KEY,
    }
    return server, environment


def create_container(endpoint: str, name: str):
    """object_store has no call for it; signed as Azure's `Authorize with Shared Key` says."""
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n"
    resource = f"/{AZURITE_ACCOUNT}/{AZURITE_ACCOUNT}/{name}\nrestype:container"
    text = "PUT" + "\n" * 12 + headers + resource
    signature = base64.b64encode(hmac.new(base64.b64decode(AZURITE_KEY), text.encode(), hashlib.sha256).digest()).decode()
    request = urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT")
    request.add_header("x-ms-date", date)
    request.add_header("x-ms-version", "2021-08-06")
    request.add_header("Authorization", f"SharedKey {AZURITE_ACCOUNT}:{signature}")
    # urllib would add one that is not signed.
    request.add_header("Content-Type", "")
    urllib.request.urlopen(request, timeout=PATIENCE).close()


def main(venv: str, node: str, command: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        weed, environment = seaweedfs(venv, work)
        stack.callback(weed.stop)
        stores = ["s3://test"]
        if node:
            azure, more = azurite(node, work)
            stack.callback(azure.stop)
            azure.wait()
            create_container(more["AZURE_STORAGE_ENDPOINT"], "test")
            environment |= more
            stores.append("az://test")
        weed.wait()
        environment |= {"IP2P_TEST_STORES": " ".join(stores), "IP2P_TEST_S3_PID": str(weed.pid_file)}
        return subprocess.call(command, env={**os.environ, **environment})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
