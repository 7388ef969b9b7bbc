"""The program that the demo traces: `python -m bitnet_trace.demo.decode MODEL`.

It loads a model with llama.cpp (the `xllamacpp` wheel, a shared object that Python loads while the program runs),
gives it a prompt of so many tokens, has it generate so many, and prints llama.cpp's own figures as llama-server does.
The first generated token is sampled from the prefill's logits, so N tokens take N - 1 decode steps after it.

Imports are light on purpose: what this program does besides inference shows up in the trace.
"""

import argparse
import os
import sys
from typing import Any

from bitnet_trace.demo import FIRST_WORD

_WORDS = 509  # prime, and within the vocabulary of the smallest demo model


def prompt(length: int) -> list[int]:
    """Token ids: a prompt whose length needs no tokeniser to be known."""
    return [FIRST_WORD + (31 * index) % _WORDS for index in range(length)]


def generate(model: str, prompt_tokens: int, tokens: int, threads: int, mapped: bool = True) -> dict[str, Any]:
    """llama.cpp's `timings` of one greedy completion.

    Raises RuntimeError when the engine refuses the model or generates another number of tokens.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    if not mapped:
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_ctx = prompt_tokens + tokens + 1
    params.n_parallel = 1
    params.fit_params = False
    params.cache_ram_mib = 0  # one request: nothing to keep for a next one
    params.n_ctx_checkpoints = 0
    params.verbosity = 1  # errors
    params.api_keys = [os.urandom(16).hex()]  # the server object also listens on a local port: closed to others

    server = xllamacpp.Server(params)
    reply = server.handle_completions(
        {
            "prompt": prompt(prompt_tokens),
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
    )
    if "timings" not in reply:
        raise RuntimeError(f"llama.cpp: {reply}")
    timings: dict[str, Any] = reply["timings"]
    counts = timings["prompt_n"], timings["predicted_n"]
    if counts != (prompt_tokens, tokens):
        raise RuntimeError(f"asked for {(prompt_tokens, tokens)} prompt and generated tokens, got {counts}")
    return timings


def timing_lines(timings: dict[str, Any]) -> list[str]:
    """The lines that llama-server prints of a request, from the values of its reply.

    Its `eval time` is that of generating: from the first token to the last, with what lies between two decode calls.
    """

    def line(what: str, ms: float, count: int) -> str:
        text = f"{what:>16} = {ms:10.2f} ms / {count:5d} tokens"
        if not count or not ms:
            return text
        return f"{text} ({ms / count:8.2f} ms per token, {1e3 * count / ms:8.2f} tokens per second)"

    prompt_ms, prompt_n = timings["prompt_ms"], timings["prompt_n"]
    generated_ms, generated_n = timings["predicted_ms"], timings["predicted_n"]
    lines = [
        line("prompt eval time", prompt_ms, prompt_n),
        line("eval time", generated_ms, generated_n),
        f"{'total time':>16} = {prompt_ms + generated_ms:10.2f} ms / {prompt_n + generated_n:5d} tokens",
    ]
    return [f"slot print_timing: id  0 | task 0 | {text}" for text in lines]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bitnet_trace.demo.decode", description="Decode with a GGUF model.")
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-mmap", action="store_true", help="read the model instead of mapping it")
    options = parser.parse_args()
    if min(options.prompt_tokens, options.tokens, options.threads) < 1:
        parser.error("--prompt-tokens, --tokens and --threads are at least 1")
    try:
        mapped = not options.no_mmap
        timings = generate(options.model, options.prompt_tokens, options.tokens, options.threads, mapped)
    except ImportError:
        sys.exit("xllamacpp is not installed: pip install 'bitnet-trace[demo]'")
    except RuntimeError as error:
        sys.exit(str(error))
    print("\n".join(timing_lines(timings)))


if __name__ == "__main__":
    main()
