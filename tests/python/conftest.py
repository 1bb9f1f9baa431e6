"""Fixtures that several files share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

from warpjet import LLM

# A shell's background job ignores Ctrl-C and nohup a hang-up, and so would the programs that tests send them to.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def llm() -> Iterator[LLM]:
    """The embedded model; on the CPU, requests may ask for log-probabilities of the whole vocabulary."""
    with LLM(device="cpu", max_logprobs=-1) as model:
        yield model


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random fp32 Llama with 97 tokens and no tokenizer."""
    return write_checkpoint(tmp_path_factory.mktemp("random"))
