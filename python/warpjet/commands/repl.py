"""A conversation in the terminal, with the commands that users of Ollama know."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpjet._native import SamplingParams
from warpjet.commands.terminal import Report, check, open_llm, sampling_params
from warpjet.commands.wrap import Wrapper
from warpjet.llm import LLM
from warpjet.requests.chat_call import ChatKeywords
from warpjet.requests.locate import model_name
from warpjet.requests.outputs import RequestOutput

if TYPE_CHECKING:
    from warpjet.serve.flags import Plan

# For checkpoints that recommend no sampling: plain draws (temperature 1) make prose of small models fall apart.
_DEFAULTS = {"temperature": 0.7, "top_p": 0.95}

_HISTORY_LINES = 1000
_LEAVE = "(Ctrl-D or /bye ends the chat)"


def chat(plan: "Plan", system: str | None, sampling: Mapping[str, Any]) -> int:
    """Reads messages and answers them, until /bye or the end of input. On a terminal Ctrl-C ends an answer; what goes
    wrong with a message is printed there, and raised where input is a file or a pipe."""
    for name in ("n", "beam_width"):
        if sampling.get(name, 1) > 1:
            raise ValueError(f"a chat has one answer: --{name.replace('_', '-')} is for warpjet generate")
    with open_llm(plan) as llm:
        params = sampling_params(llm, _DEFAULTS, {"max_tokens": None, **sampling})
        talk = Chat(llm, params, system, plan.settings.default_chat_template_kwargs)
        llm.stream_chat([*talk.messages, _user("")], params, **talk.options)  # raises what is wrong with the template
        if not sys.stdin.isatty():
            for message in read_messages(input):
                if not talk.take(message):
                    break
            return 0
        print(f"{model_name(plan.model)}: type a message; /help lists commands, Ctrl-D ends.", file=sys.stderr)
        with _history():
            _talk(talk)
    return 0


def _talk(talk: "Chat") -> None:
    messages = read_messages(lambda: input(">>> "), lambda: input("... "))
    while True:
        try:
            message = next(messages, None)
            if message is None:
                print()
                return
            if not talk.take(message):
                return
        except KeyboardInterrupt:  # ends the generator too
            print(f"\n{_LEAVE}", file=sys.stderr)
            messages = read_messages(lambda: input(">>> "), lambda: input("... "))
        except (ValueError, TypeError, NotImplementedError, OSError) as error:
            print(f"warpjet: {error}", file=sys.stderr)


def read_messages(first: Callable[[], str], more: Callable[[], str] | None = None) -> Iterator[str]:
    """Messages, until the end of input. A backslash at the end of a line, or three quotes around several lines, make
    them one message; so does pasting, which reaches `first` whole."""
    more = more or first
    while True:
        try:
            line = first()
        except EOFError:
            return
        with contextlib.suppress(EOFError):  # then the message ends there
            if line.lstrip().startswith('"""'):
                line = line.lstrip()[3:]
                while not line.rstrip().endswith('"""'):
                    line += "\n" + more()
                line = line.rstrip()[:-3]
            else:
                while line.endswith("\\"):
                    line = line[:-1] + "\n"
                    line += more()
        if message := line.strip():
            yield message


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Line editing, with the lines of earlier chats."""
    import readline

    path = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "warpjet" / "chat_history"
    readline.parse_and_bind("set enable-bracketed-paste on")
    readline.set_history_length(_HISTORY_LINES)
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a home that cannot be written has no history
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.write_history_file(path)


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


class Chat:
    """A conversation and its commands."""

    def __init__(
        self, llm: LLM, params: SamplingParams, system: str | None, template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.options: ChatKeywords = {"chat_template_kwargs": template_kwargs} if template_kwargs else {}
        self.messages: list[dict[str, str]] = []
        self._llm, self._params = llm, params
        self._terminal = sys.stdin.isatty()
        self._figures = self._terminal
        self._wraps = sys.stdout.isatty()
        self._set_system(system or "")

    def take(self, message: str) -> bool:
        """Answers a message or obeys a command; False ends the chat. Raises ValueError for what cannot be."""
        if not message.startswith("/"):
            self._answer(message)
            return True
        command, _, rest = message[1:].partition(" ")
        if command not in _COMMANDS:
            print(f"unknown command /{command}; /help lists them", file=sys.stderr)
            return True
        return _COMMANDS[command](self, rest.strip()) is not False

    def _answer(self, text: str) -> None:
        """Prints the answer as it comes. Interrupted, it ends there; the conversation goes on."""
        stream = self._llm.stream_chat([*self.messages, _user(text)], self._params, **self.options)
        report, answer, output = Report(), "", None
        wrapper = Wrapper(sys.stdout.write) if self._wraps else None
        try:
            for output in report.watch(stream):
                check(output)
                piece = output.outputs[0].text
                answer += piece
                (wrapper.write if wrapper else sys.stdout.write)(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            if not self._terminal:
                raise
            output = None
        if wrapper:
            wrapper.flush()
        print(flush=True)
        self.messages += [_user(text), {"role": "assistant", "content": answer}]
        if output is None:
            print("[stopped]", file=sys.stderr)
        elif output.outputs[0].finish_reason == "length":
            print(f"[stopped at max tokens{self._why(output)}]", file=sys.stderr)
        if self._figures:
            print(report.line(), file=sys.stderr)

    def _why(self, output: RequestOutput) -> str:
        limit = self._params.max_tokens
        context = self._llm.get_model_info().max_model_len
        if limit is not None and limit + len(output.prompt_token_ids or ()) < context:
            return f": {limit}; /set max_tokens N changes it"
        return f": the context of {context} tokens is full; /clear starts anew"

    def _set_system(self, text: str) -> None:
        self.messages = [message for message in self.messages if message["role"] != "system"]
        if text:
            self.messages.insert(0, {"role": "system", "content": text})

    def _system(self) -> str:
        return next((message["content"] for message in self.messages if message["role"] == "system"), "")

    # --- Commands ---

    def help(self, _: str) -> None:
        """Lists the commands."""
        print(_HELP, file=sys.stderr)

    def leave(self, _: str) -> bool:
        """Ends the chat."""
        return False

    def clear(self, _: str) -> None:
        """Forgets the conversation; the system message stays."""
        system = self._system()
        self.messages = []
        self._set_system(system)

    def set(self, rest: str) -> None:
        """/set NAME VALUE, /set parameter NAME VALUE, /set system TEXT, and switches."""
        name, _, value = rest.removeprefix("parameter ").strip().partition(" ")
        switches = {"verbose": ("_figures", True), "quiet": ("_figures", False)}
        switches |= {"wordwrap": ("_wraps", True), "nowordwrap": ("_wraps", False)}
        if name in switches:
            setattr(self, *switches[name])
        elif name == "system":
            self._set_system(value.strip().removeprefix('"""').removesuffix('"""'))
        elif not value:
            raise ValueError("/set NAME VALUE, such as /set temperature 0.5; /show has the names")
        elif name in ("n", "beam_width"):
            raise ValueError(f"a chat has one answer, so {name} is 1")
        else:
            self._params = self._params.replace(**{name.replace("-", "_"): _value(value)})

    def show(self, _: str) -> None:
        """What the chat runs with."""
        info = self._llm.get_model_info()
        print(f"model       {info.architecture}, context {info.max_model_len} tokens", file=sys.stderr)
        print(f"system      {self._system() or '(none)'}", file=sys.stderr)
        shown = self._params.to_dict()
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed", "stop"):
            print(f"{name:<20}{shown[name]}", file=sys.stderr)
        print(f"{len(self.messages)} messages", file=sys.stderr)

    def save(self, path: str) -> None:
        """Writes the conversation, as JSON."""
        if not path:
            raise ValueError("/save FILE")
        Path(path).expanduser().write_text(json.dumps(self.messages, indent=1, ensure_ascii=False), encoding="utf-8")

    def load(self, path: str) -> None:
        """Goes on with a conversation that was saved."""
        if not path:
            raise ValueError("/load FILE")
        messages = json.loads(Path(path).expanduser().read_bytes())
        if not isinstance(messages, list):
            raise ValueError(f"{path} must hold a list of messages, as /save writes it")
        self._llm.stream_chat([*messages, _user("")], self._params, **self.options)  # raises what is wrong with it
        self.messages = messages


def _value(text: str) -> Any:
    """A number or JSON where it is one, and else text."""
    if text.lower() == "none":
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


_COMMANDS: dict[str, Callable[[Chat, str], bool | None]] = {
    "help": Chat.help,
    "?": Chat.help,
    "bye": Chat.leave,
    "exit": Chat.leave,
    "quit": Chat.leave,
    "clear": Chat.clear,
    "reset": Chat.clear,
    "set": Chat.set,
    "show": Chat.show,
    "save": Chat.save,
    "load": Chat.load,
}

_HELP = '''\
/set NAME VALUE     a sampling parameter, such as temperature 0.5
/set system TEXT    the system message
/set verbose        figures after each answer (quiet: none); wordwrap, nowordwrap
/show               the model, the system message and the parameters
/save FILE, /load FILE   the conversation, as JSON
/clear, /reset      forget the conversation
/bye, /exit, Ctrl-D end the chat; Ctrl-C stops an answer
/help, /?           this text
"""                 begins a message of several lines, and ends it; so does \\ at the end of a line'''
