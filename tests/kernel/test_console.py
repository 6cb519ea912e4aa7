# SPDX-License-Identifier: Apache-2.0
"""The console as its user has it: on a pseudo-terminal, driven by keys, beside real connections."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pyte
import pytest

from tests.kernel.conftest import ROOT, TIMEOUT_S, wait_until

LEFT = "\x1b[?1049l"


class Console:
    """A program on a terminal of its own, whose screen is what a terminal would show."""

    def __init__(self, command, columns=80, lines=24, **environment):
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._sent = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PS1": "READY ", **environment}
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
            os.execvp(command[0], command)

    def read(self):
        while select.select([self.fd], [], [], 0)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return
            if not data:
                return
            self._sent += data.decode(errors="replace")
            self._stream.feed(data)

    @property
    def sent(self):
        """Everything that the terminal got so far."""
        self.read()
        return self._sent

    @property
    def text(self):
        self.read()
        return "\n".join(self.screen.display)

    def shows(self, *parts):
        try:
            wait_until(lambda: all(part in self.text for part in parts), f"{parts}")
        except AssertionError as error:
            raise AssertionError(f"{error} on the screen:\n{self.text}") from None

    def press(self, keys):
        os.write(self.fd, keys if isinstance(keys, bytes) else keys.encode())

    def resize(self, columns, lines):
        self.screen.resize(lines, columns)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def ended(self):
        """The exit code once it is there."""

        def look():
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return (os.waitstatus_to_exitcode(status),) if pid else None

        code = wait_until(look, "the console to end")[0]
        self.pid = 0
        return code

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def on_terminal():
    started = []

    def make(*arguments, command=(sys.executable, "-m", "tracer"), **options):
        console = Console([*command, *arguments], **options)
        started.append(console)
        return console

    yield make
    for console in started:
        console.kill()


def test_the_pages_show_the_host_and_q_gives_the_terminal_back(on_terminal, netns):
    console = on_terminal("live", "--refresh", "0.2")
    console.shows("1 Overview", "ESTABLISHED", "q quit", "lost 0")
    with subprocess.Popen(
        netns.command(sys.executable, "-c", LINGER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as lingering:
        port = int(lingering.stdout.readline())
        console.press("2")
        console.press(f"/port:{port}\r")
        console.shows("2 of", "open connections", f"127.0.0.1:{port}")
        console.press("3")
        console.shows("OLD>NEW", "LISTEN>SYN_RECV", f"127.0.0.1:{port}")
        console.press("?")
        console.shows("KEYS", "FILTER")
        lingering.kill()
    console.press("\x1b")
    console.press("2")
    console.press("t")
    console.press(f"/port:{port}\r")
    console.shows("last ended connections", "closed_local")
    console.press("q")

    assert console.ended() == 0
    assert LEFT in console.sent
    assert "\x1b[?25h" in console.sent
    assert "tcptrace: done" in console.sent.rpartition(LEFT)[2]


LINGER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted = server.accept()
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_a_wrong_filter_is_a_message_and_the_console_goes_on(on_terminal):
    console = on_terminal("live", "--refresh", "0.2")
    console.shows("ESTABLISHED")
    console.press("/port:nope\r")
    console.shows("bad port 'nope'")
    console.press("1")
    console.shows("q quit", "ESTABLISHED")


def test_pause_halts_the_picture_and_reset_counts_anew(on_terminal):
    console = on_terminal("live", "--refresh", "0.2")
    console.shows("ESTABLISHED", "up 0:")
    console.press("p")
    console.shows("PAUSED")
    stopped = console.text.splitlines()[0]
    time.sleep(1.2)  # long enough for the clock in the first line to go on, if it did
    assert stopped == console.text.splitlines()[0]
    console.press("p")
    wait_until(lambda: stopped != console.text.splitlines()[0], "the picture to go on")
    console.press("r")
    console.shows("since 0:0")


def test_a_resized_terminal_is_filled_again(on_terminal):
    console = on_terminal("live", "--refresh", "0.2")
    console.shows("ESTABLISHED", "q quit")
    console.resize(120, 40)
    console.shows("LAST MINUTE", "every 0.2 s")
    wait_until(lambda: "q quit" in console.text.splitlines()[39], "the footer in the last line")
    console.resize(50, 10)
    console.shows("tcptrace needs 60x15, this is 50x10")


@pytest.mark.parametrize("how", ["ctrl_c", "sigterm", "hang_up"])
def test_the_terminal_is_given_back_however_it_ends(on_terminal, how):
    console = on_terminal("live", "--refresh", "0.2")
    console.shows("ESTABLISHED")
    assert not termios.tcgetattr(console.fd)[3] & termios.ICANON
    if how == "ctrl_c":
        console.press("\x03")
    else:
        os.kill(console.pid, {"sigterm": signal.SIGTERM, "hang_up": signal.SIGHUP}[how])

    assert console.ended() == 0
    assert LEFT in console.sent
    assert termios.tcgetattr(console.fd)[3] & termios.ICANON
    assert termios.tcgetattr(console.fd)[3] & termios.ECHO


def test_a_crash_gives_the_terminal_back_before_its_traceback(on_terminal):
    broken = (
        "import tracer.cli.console, tracer.__main__\n"
        "def fail(*_): raise ValueError('broken')\n"
        "tracer.cli.console.ConsoleScreen._draw = fail\n"
        "tracer.__main__.main()"
    )
    console = on_terminal(command=(sys.executable, "-c", broken))

    assert console.ended() != 0
    after = console.sent.rpartition(LEFT)[2]
    assert "ValueError: broken" in after
    assert termios.tcgetattr(console.fd)[3] & termios.ICANON


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_takes_it_again(on_terminal):
    console = on_terminal(command=("bash", "--norc", "--noprofile", "-i"))
    console.shows("READY")
    console.press(f"{sys.executable} -m tracer live --refresh 0.2 2>/dev/null\r")
    console.shows("ESTABLISHED", "q quit")
    console.press("\x1a")
    wait_until(lambda: "Stopped" in console.text and console.sent.endswith("READY "), "the shell")
    assert LEFT in console.sent
    console.press("fg\r")
    wait_until(lambda: console.sent.count("\x1b[?1049h") == 2, "the console again")
    console.shows("ESTABLISHED", "q quit")
    console.press("q")
    wait_until(lambda: console.sent.count(LEFT) == 2 and console.sent.endswith("READY "), "the shell again")


def test_in_the_background_it_draws_nothing_and_in_the_foreground_it_does(on_terminal):
    console = on_terminal(command=("bash", "--norc", "--noprofile", "-i"))
    console.shows("READY")
    console.press(f"{sys.executable} -m tracer live --refresh 0.2 2>/tmp/tcptrace-test-$$ &\r")
    console.press("until grep -q capturing /tmp/tcptrace-test-$$; do :; done; rm /tmp/tcptrace-test-$$; echo AT'TACHED'\r")
    wait_until(lambda: "ATTACHED" in console.text, "tcptrace in the background")
    assert "\x1b[?1049h" not in console.sent
    console.press("fg\r")
    console.shows("ESTABLISHED", "q quit")
    console.press("q")
    wait_until(lambda: LEFT in console.sent, "the end")


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_terminals_that_can_do_less_get_less(on_terminal, environment):
    console = on_terminal("live", "--refresh", "0.2", "--duration", "1", **environment)

    assert console.ended() == 0
    assert "ESTABLISHED" in console.sent
    colours = [part for part in console.sent.split("\x1b[")[1:] if part[:2] in ("31", "32", "33", "36", "38")]
    assert not colours
    assert (environment["TERM"] == "dumb") == ("\x1b[?1049h" not in console.sent)


def test_a_terminal_without_utf_8_gets_ascii(on_terminal):
    console = on_terminal("live", "--refresh", "0.2", "--duration", "1", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")

    assert console.ended() == 0
    assert "ESTABLISHED" in console.sent
    assert console.sent.isascii()


def test_once_prints_one_block_without_a_terminal():
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "live", "--once", "--refresh", "0.2"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=TIMEOUT_S,
    )

    assert done.stdout.count("STATE ") == 1
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_recording_is_made_and_replayed_on_the_same_screen(on_terminal, netns, tmp_path):
    file = tmp_path / "run.arrows"
    recorder = on_terminal("record", "-o", str(file), "--console", "--netns", netns.name)
    recorder.shows("ESTABLISHED", "q quit")
    done = netns.traffic("refused", count=23)
    recorder.shows("RECENT FAILURES", "refused", f":{done['port']} x23")
    recorder.press("q")
    assert recorder.ended() == 0

    # So slowly that a busy machine sees its beginning too.
    replay = on_terminal("replay", "--speed", "0.1", str(file))
    replay.shows("replay 0:0", "x0.1", "ESTABLISHED")
    replay.press(" ")
    replay.shows("paused")
    replay.press(" ")
    replay.press("\x1b[C")
    replay.shows("replay 0:0", "end", f":{done['port']} x23")
    replay.press("2t")
    replay.shows("23 last ended connections", "refused")
    replay.press("q")
    assert replay.ended() == 0
    assert LEFT in replay.sent
