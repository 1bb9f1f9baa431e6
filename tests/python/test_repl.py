"""The chat in the terminal: commands, messages of several lines, and keys, on a terminal of its own."""

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from waiting import PATIENCE_S

from warpjet import LLM, SamplingParams
from warpjet.commands.repl import Chat, read_messages
from warpjet.commands.terminal import sampling_params
from warpjet.commands.wrap import Wrapper

PROMPT, MORE = b">>> ", b"... "
AGAIN_S = 1  # until a key that may have been missed is typed again


class Terminal:
    """`warpjet chat` on a terminal."""

    def __init__(self, state: Path, *flags: str) -> None:
        self._master, slave = pty.openpty()
        self.shown = b""
        self._seen = 0  # of that, what earlier turns waited for
        self._process = subprocess.Popen(
            [sys.executable, "-m", "warpjet", "chat", "--temperature", "0", *flags],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | {"TERM": "xterm", "XDG_STATE_HOME": str(state), "COLUMNS": "200"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def talk(self, *turns: tuple[bytes, bytes]) -> str:
        """Waits for a text, types, and so on; then reads to the end."""
        for text, keys in turns:
            self.until(text, keys)
        self._read(None)
        return self.shown.decode().replace("\r", "")

    def until(self, text: bytes, keys: bytes) -> None:
        """Waits for the text, then types."""
        self._read(text)
        os.write(self._master, keys)

    def press_until(self, keys: bytes, text: bytes) -> None:
        """Types again whenever the text does not come for a second: Python's own prompt misses a signal that comes
        between its look for one and its wait for a key."""
        while self.shown.find(text, self._seen) < 0:
            if select.select([self._master], [], [], AGAIN_S)[0]:
                self.shown += os.read(self._master, 1 << 16)
            else:
                os.write(self._master, keys)
        self._read(text)

    def wait(self) -> int:
        code = self._process.wait(timeout=PATIENCE_S)
        os.close(self._master)
        return code

    def _read(self, until: bytes | None) -> None:
        while until is None or (found := self.shown.find(until, self._seen)) < 0:
            ready, _, _ = select.select([self._master], [], [], PATIENCE_S)
            assert ready, f"{until!r} was not shown: {self.shown!r}"
            try:
                piece = os.read(self._master, 1 << 16)
            except OSError:  # the other side has closed
                piece = b""
            if not piece:
                assert until is None, f"{until!r} was not shown: {self.shown!r}"
                return
            self.shown += piece
        self._seen = found + len(until)


def test_a_message_is_answered_and_ctrl_d_ends(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    shown = terminal.talk((PROMPT, b"What is 3 + 4?\r"), (PROMPT, b"\x04"))
    assert "3 + 4 = 7" in shown and "tok/s" in shown and "stopped" not in shown
    assert terminal.wait() == 0


def test_ctrl_c_at_the_prompt_says_how_to_leave_and_keeps_the_chat(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.until(PROMPT, b"What is 3 + 4?\r")
    terminal.until(PROMPT, b"half a line")
    terminal.until(b"half a line", b"\x03")
    terminal.press_until(b"\x03", b"Ctrl-D or /bye ends")
    shown = terminal.talk((PROMPT, b"/show\r"), (PROMPT, b"/bye\r"))
    assert "Ctrl-D or /bye ends" in shown and "2 messages" in shown
    assert terminal.wait() == 0


def test_ctrl_c_in_an_answer_stops_it(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "--ignore-eos", "--num-threads", "1")
    shown = terminal.talk((PROMPT, b"What is 3 + 4?\r"), (b"3 + 4 =", b"\x03"), (PROMPT, b"/show\r"), (PROMPT, b"\x04"))
    assert "[stopped" in shown and "2 messages" in shown
    assert terminal.wait() == 0


def test_what_is_pasted_is_one_message(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "--max-tokens", "4")
    paste = b"\x1b[200~one\ntwo\nthree\x1b[201~\r"
    shown = terminal.talk((PROMPT, paste), (PROMPT, b"/show\r"), (PROMPT, b"\x04"))
    assert "2 messages" in shown
    assert terminal.wait() == 0


def test_quotes_hold_several_lines(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "--max-tokens", "4")
    shown = terminal.talk((PROMPT, b'"""one\r'), (MORE, b'two"""\r'), (PROMPT, b"/show\r"), (PROMPT, b"\x04"))
    assert "2 messages" in shown
    assert terminal.wait() == 0


def test_lines_of_an_earlier_chat_are_recalled(tmp_path: Path) -> None:
    first = Terminal(tmp_path)
    first.talk((PROMPT, b"/show\r"), (PROMPT, b"\x04"))
    assert first.wait() == 0
    second = Terminal(tmp_path)
    up = b"\x1b[A"
    shown = second.talk((PROMPT, up + b"\r"), (PROMPT, b"\x04"))
    assert "context 1024 tokens" in shown
    assert second.wait() == 0
    history = tmp_path / "warpjet" / "chat_history"
    assert history.stat().st_mode & 0o077 == 0


def test_what_is_wrong_with_a_message_does_not_end_the_chat(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    shown = terminal.talk((PROMPT, b"/set temperature hot\r"), (PROMPT, b"/nonsense\r"), (PROMPT, b"/quit\r"))
    assert "temperature must be" in shown and "unknown command /nonsense" in shown
    assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (["one", "", "two"], ["one", "two"]),
        (['"""one', "two", 'three"""', "four"], ["one\ntwo\nthree", "four"]),
        (['"""one"""'], ["one"]),
        (['"""', "one", '"""'], ["one"]),
        (["one\\", "two\\", "three"], ["one\ntwo\nthree"]),
        (['"""never ends'], ["never ends"]),
        (["ends with\\"], ["ends with"]),
    ],
)
def test_lines_become_messages(lines: list[str], messages: list[str]) -> None:
    left = iter(lines)

    def read() -> str:
        if (line := next(left, None)) is None:
            raise EOFError
        return line

    assert list(read_messages(read)) == messages


@pytest.fixture
def talk(llm: LLM) -> Chat:
    return Chat(llm, SamplingParams(temperature=0, max_tokens=4, output_kind="delta"), "Be brief.")


def roles(talk: Chat) -> list[str]:
    return [message["role"] for message in talk.messages]


def test_clear_forgets_the_conversation_and_keeps_the_system_message(talk: Chat) -> None:
    assert talk.take("Hello") and roles(talk) == ["system", "user", "assistant"]
    for command in ("/clear", "/reset"):
        assert talk.take(command) and roles(talk) == ["system"]


def test_set_changes_parameters_and_the_system_message(talk: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("/set temperature 0.5", "/set parameter top-k 3", "/set max_tokens none", "/set system Be kind."):
        assert talk.take(command)
    assert talk.take("/show")
    shown = capsys.readouterr().err
    assert all(text in shown for text in ("temperature         0.5", "top_k               3", "Be kind."))
    for command in ("/set temperature", "/set n 2", "/set temprature 1"):
        with pytest.raises((ValueError, TypeError)):
            talk.take(command)


def test_a_conversation_is_saved_and_loaded(talk: Chat, tmp_path: Path) -> None:
    talk.take("Hello")
    kept = talk.messages
    talk.take(f"/save {tmp_path / 'chat.json'}")
    talk.take("/clear")
    talk.take(f"/load {tmp_path / 'chat.json'}")
    assert talk.messages == kept
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises((ValueError, TypeError)):
        talk.take(f"/load {tmp_path / 'bad.json'}")
    assert talk.messages == kept


@pytest.mark.parametrize("command", ["/bye", "/exit", "/quit"])
def test_leaving_ends_the_chat(talk: Chat, command: str) -> None:
    assert not talk.take(command)


def test_help_names_every_command(talk: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    assert talk.take("/help") and talk.take("/?")
    shown = capsys.readouterr().err
    assert all(name in shown for name in ("/set", "/show", "/save", "/load", "/clear", "/reset", "/bye", "/exit", "/?"))


def test_an_answer_that_is_cut_says_so(talk: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    talk.take("/set ignore_eos true")
    talk.take("Hello")
    assert "[stopped at max tokens: 4;" in capsys.readouterr().err
    talk.take("/set max_tokens none")
    talk.take("/set min_tokens 1")
    talk.take("Hello")
    assert "[stopped at max tokens: the context of 1024 tokens is full; /clear" in capsys.readouterr().err


def test_words_are_not_broken_at_the_edge() -> None:
    def wrapped(*pieces: str) -> str:
        out: list[str] = []
        wrapper = Wrapper(out.append, width=10)
        for piece in pieces:
            wrapper.write(piece)
        wrapper.flush()
        return "".join(out)

    assert wrapped("one two th", "ree four") == "one two \nthree four"
    assert wrapped("a\n  b\n", "c") == "a\n  b\nc"
    assert wrapped("x" * 25).replace("\n", "") == "x" * 25
    assert max(map(len, wrapped("x" * 25).split("\n"))) <= 10
    assert wrapped("日本語日本語") == "日本語日本\n語"


def test_defaults_of_a_command_stand_where_a_checkpoint_recommends_nothing(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = {"temperature": 0.7, "top_p": 0.95}
    for recommended, given, expected in (
        (SamplingParams(), {}, (0.7, 0.95)),
        (SamplingParams(), {"temperature": 1.5}, (1.5, 0.95)),
        (SamplingParams(temperature=0.3), {}, (0.3, 1.0)),
        (SamplingParams(top_k=20), {}, (1.0, 1.0)),
    ):
        monkeypatch.setattr(llm, "get_default_sampling_params", lambda params=recommended: params.replace())
        params = sampling_params(llm, chat, given)
        assert (params.temperature, params.top_p) == expected


def test_beam_search_leaves_out_what_the_checkpoint_recommends_for_drawing(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommended = SamplingParams(temperature=0.6, top_p=0.9, top_k=20, min_p=0.1, repetition_penalty=1.1)
    monkeypatch.setattr(llm, "get_default_sampling_params", recommended.replace)
    assert sampling_params(llm, {}, {"beam_width": 3}).beam_width == 3
    with pytest.raises(ValueError, match="temperature does not go with beam_width"):
        sampling_params(llm, {}, {"beam_width": 3, "temperature": 0.6})
