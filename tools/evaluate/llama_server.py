"""llama.cpp's server as a peer: plain, or with the speculation that it has built in.

One server runs for each method, on a port of the loopback interface, and ends with the evaluation, however that ends.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ... import _core
from .engines import Text
from .peer_rows import PeerChoice, PeerOptions, PeerRow, drafted_rows
from .peer_texts import SAMPLING, Peer, collect, text_of
from .records import Method

PROGRAM = "llama-server"
#: What each kind is; those with a drafter by what the server calls this kind of speculation.
KINDS = {
    "llama-server": "llama.cpp's server, plain (in PATH, or --llama-server)",
    "llama-server-draft": "it with a language model of -d that drafts --draft-max tokens",
    "llama-server-eagle3": "it with an EAGLE-3 drafter of -d",
    "llama-server-ngram-simple": "it with its n-grams",
    "llama-server-ngram-map-k": "likewise",
    "llama-server-ngram-map-k4v": "likewise",
    "llama-server-ngram-mod": "likewise",
    "llama-server-ngram-cache": "likewise",
}
#: Those with a drafter: what the server calls it, and which kind of drafter it is.
DRAFTED = {"llama-server-draft": ("draft-simple", "model"), "llama-server-eagle3": ("draft-eagle3", "eagle3")}
DRAFT_MAX = 3  # tokens drafted at once: the server's own default

_START_SECONDS = 900.0  # that loading a model may take
_TEXT_SECONDS = 3600.0  # that a text may take
_STOP_SECONDS = 10.0  # that the server has to end by itself


def server_rows(kind: str, choice: PeerChoice) -> list[PeerRow] | str:
    """The rows of a kind, one for each drafter that fits and each number of tokens; or why it must be skipped.

    Raises:
        FileNotFoundError: There is no such program.
        ValueError: None of the drafters fits.
    """
    program = find_server(choice.server)
    if program is None:
        return f"found no program '{PROGRAM}' in PATH; --llama-server names one"
    spec, wanted = DRAFTED.get(kind, (kind.removeprefix(f"{PROGRAM}-") if kind != PROGRAM else "none", None))
    row = Method(kind, kind, engine=f"llama.cpp {_version(program)}", settings={"spec_type": spec}, exact=False)
    if wanted is None:
        return [PeerRow(row)]
    fit = [drafter for drafter in choice.drafters if drafter.kind == wanted]
    return drafted_rows(row, fit, choice, KINDS[kind], "n_max", DRAFT_MAX)


def find_server(binary: Path | None) -> Path | None:
    """The program that is given, or the one in PATH, if there is one.

    Raises:
        FileNotFoundError: The given one is no program.
    """
    found = shutil.which(PROGRAM if binary is None else str(binary))
    if found is None and binary is not None:
        raise FileNotFoundError(f"--llama-server {binary}: found no such program")
    return None if found is None else Path(found)


def _version(program: Path) -> str:
    """``"0.5.0 (build 1, commit 0c1e570)"``, as the program says."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "(unknown version)"
    for line in (done.stderr + done.stdout).decode(errors="replace").splitlines():
        if line.startswith("version:"):
            return line.removeprefix("version:").strip()
    return "(unknown version)"


class LlamaServer(Peer):
    """A running server.

    Args:
        method: A row of `server_rows`.
        options: What peers are started with.
        tokenizer: The target's.

    Raises:
        RuntimeError: It does not start; the message holds the last line that it wrote.
    """

    def __init__(self, method: Method, options: PeerOptions, tokenizer: _core.Tokenizer) -> None:
        super().__init__(method, options, tokenizer)
        self._drafts = method.settings["spec_type"] != "none"
        program = find_server(options.choice.server)
        if program is None:
            raise RuntimeError(f"found no program '{PROGRAM}' in PATH")
        self._port = _free_port()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the server)
        self._process = subprocess.Popen(
            [str(program), *_arguments(method, options, self._port)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        #: Ends the server; also at the end of the program, or when nobody refers to this any more.
        self.close = weakref.finalize(self, _stop, self._process, self._log)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _write(self, prompt: Sequence[int]) -> Text:
        writing = self._writing
        request = {
            "prompt": list(prompt),
            "n_predict": writing["max_tokens"],
            "ignore_eos": bool(writing.get("ignore_eos")),
            "seed": int(writing.get("seed", 0)) % 2**32,
            "samplers": ["top_k", "top_p", "min_p", "temperature"],
            "repeat_penalty": 1.0,
            "temperature": 0.0,
            **{name: writing[name] for name in SAMPLING if name in writing},
            "cache_prompt": False,  # nothing of an earlier text: the whole prompt is read
            "return_tokens": True,
        }
        start = time.perf_counter()
        answer = self._ask("POST", "/completion", request, _TEXT_SECONDS)
        total = time.perf_counter() - start
        tokens, reason, _ = collect(answer["tokens"], start, writing, self._tokenizer)
        timings = answer["timings"]
        # Each pass of the target gives one token that was not drafted.
        passes = int(timings["predicted_n"]) - int(timings.get("draft_n_accepted", 0))
        return text_of(tokens, reason, float(timings["prompt_ms"]) / 1e3, total, passes, 1, self._drafts)

    def _wait(self) -> None:
        """Until it has loaded the model."""
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"{PROGRAM} ended with exit code {self._process.returncode}: {self._last_words()}")
            try:
                self._ask("GET", "/health", None, 10.0)
            except (OSError, http.client.HTTPException, RuntimeError):
                time.sleep(0.1)  # it does not listen yet, or says that it is loading
            else:
                return
        raise RuntimeError(f"{PROGRAM} was not ready after {_START_SECONDS:.0f} seconds: {self._last_words()}")

    def _ask(self, verb: str, path: str, body: dict[str, Any] | None, seconds: float) -> Any:
        """What the server answers.

        Raises:
            RuntimeError: It says that something is wrong.
            OSError: It is not there.
        """
        # Not through urllib, which may know of a proxy.
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=seconds)
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(verb, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise RuntimeError(f"{PROGRAM} answered {response.status}: {text[:200].decode(errors='replace')}")
        return json.loads(text)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it wrote nothing"


def _arguments(method: Method, options: PeerOptions, port: int) -> list[str]:
    layers = "999" if options.gpu else "0"
    arguments = ["--model", str(options.target), "--host", "127.0.0.1", "--port", str(port), "--parallel", "1"]
    arguments += ["--ctx-size", str(options.context), "--n-gpu-layers", layers, "--cache-ram", "0"]
    arguments += ["--threads", str(options.threads), "--threads-batch", str(options.threads)]
    if method.settings["spec_type"] != "none":
        arguments += ["--spec-type", method.settings["spec_type"]]
    if options.drafter is not None:
        arguments += ["--spec-draft-model", str(options.drafter), "--spec-draft-n-max", str(method.settings["n_max"])]
        arguments += ["--spec-draft-ngl", layers]
    return arguments


def _free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _stop(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Asks the server to end, and sees to it that it does."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    log.close()
