"""The interpreter ends while daemon threads are in native code: the process exits with 0, whatever they do."""

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE_S

# What runs in `work` comes back from a wait when the interpreter has ended: when modules are cleared, the process wakes
# it and waits until it has asked for the GIL. Python 3.14 stops such a thread by itself.
SCRIPT = """
import os, sys, threading, time
from pathlib import Path
import warpjet
from warpjet._native import BuildConfig, Engine, EngineConfig, OutputQueue, SamplingParams, build_engine

TINY = Path(warpjet.__file__).parent / "models" / "tiny"
reading, writing = os.pipe()
begun = threading.Event()

def wait_in_python(*_):
    begun.set()
    os.read(reading, 1)
    return 5

class Prompt:
    def __iter__(self):
        yield wait_in_python()

engine, queue = Engine.open(TINY, EngineConfig(device="null")), OutputQueue()

{work}

class AtTheEnd:
    def __init__(self):
        self.comm = f"/proc/self/task/{{thread.native_id}}/comm"

    def __del__(self, open=open, write=os.write, clock=time.monotonic, fd=writing, wake=wake):
        wake()
        write(fd, b"x")
        end = clock() + 60
        while {waits} and clock() < end:
            with open(self.comm) as file:
                if file.read() == "parked\\n":
                    return

thread = threading.Thread(target=work, daemon=True)
thread.start()
begun.wait()
end = AtTheEnd()
print("ended")
"""

IN_A_NATIVE_WAIT = """
request = engine.submit([5], SamplingParams(max_tokens=900), queue)
engine.pause(request)
wake = lambda cancel=engine.cancel, request=request: cancel(request)

def work():
    begun.set()
    while True:
        queue.poll(1e6)
"""

IN_A_CALLBACK = """
wake = lambda: None

def work():
    build_engine(TINY, Path(sys.argv[1]) / "engine", BuildConfig(device="cpu"), wait_in_python)
"""

IN_A_CONVERSION = """
wake = lambda: None

def work():
    engine.submit(Prompt(), SamplingParams(max_tokens=1), queue)
"""


@pytest.mark.parametrize("work", [IN_A_NATIVE_WAIT, IN_A_CALLBACK, IN_A_CONVERSION])
def test_a_thread_that_comes_back_after_the_end_stops_where_it_is(work: str, tmp_path: Path) -> None:
    script = SCRIPT.format(work=work, waits=sys.version_info < (3, 14))
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


def test_threads_in_every_call_do_not_keep_the_process() -> None:
    script = """
import threading
from warpjet import LLM, SamplingParams
llm = LLM(device="cpu")
begun = threading.Barrier(5)
params = SamplingParams(max_tokens=900, ignore_eos=True)
calls = [
    lambda: llm.generate("a", params, use_tqdm=False),
    lambda: list(llm.stream("a", params)),
    lambda: llm.generate_async("a", params).result(),
    lambda: LLM(device="cpu").generate("a", params, use_tqdm=False),
]
def work(call):
    begun.wait()
    while True:
        try:
            call()
        except Exception:
            pass
for call in calls:
    threading.Thread(target=work, args=(call,), daemon=True).start()
begun.wait()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
