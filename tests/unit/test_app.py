# SPDX-License-Identifier: Apache-2.0
"""The command line: bad input is one clear error, before anything is started."""

import ast
from pathlib import Path

import pytest

import tracer.cli.run
from tracer.cli.app import app, run, with_command

PACKAGE = Path(__file__).resolve().parents[2] / "tracer"


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch):
    def start(*_):
        raise AssertionError("a capture was started")

    monkeypatch.setattr(tracer.cli.run, "begin", start)


BAD = [
    "events --nonsense",
    "nonsense",
    "events -P 80,http",
    "events -P 70000",
    "events -P 9-3",
    "events -L 0",
    "events -D ,",
    "-P 70000",
    "events --addr 10.0.0.0/99",
    "events --addr 10.0.0.1/8",
    "events --ring-size 3M",
    "events --ring-size 1K",
    "events --ring-size lots",
    "events --ring-size 2G",
    "events --count 0",
    "events --count x",
    "events --duration 0",
    "events --duration -1",
    "events --duration nan",
    "events --summary /nonexistent/summary",
    "events --summary /",
    "events -4 -6",
    "events --netns nosuch",
    "events --accept-hook maybe",
    "events --format xml",
    "events -p me",
    "events -p 0",
    "events -c a-name-of-more-than-fifteen-bytes",
    "events --cgroup /nonexistent",
    "events --config /nonexistent",
    "live --refresh 0",
    "live -p 1",
    "conns --outcome unlucky",
    "conns --sort colour",
    "conns --top 3",
    "conns --min-duration -1",
    "events extra",
]


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_clear_error(line, capsys):
    code = run(line.split())
    captured = capsys.readouterr()
    lines = captured.err.splitlines()

    assert 2 == code, captured.err
    assert "" == captured.out
    assert 1 <= len(lines) <= 3
    assert lines[0].startswith("tcptrace: error: ")
    assert all(text.startswith("tcptrace: ") for text in lines[1:])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1", "unknown field `x`"),
        ("[capture]\nlport = 3", "capture.lport"),
        ("[capture]\nlports = '3'", "unknown field `lports`"),
        ("[capture", "bad configuration"),
        ("[capture]\nlport = '9-3'", "bad port"),
    ],
)
def test_a_bad_configuration_is_one_clear_error(tmp_path, text, problem, capsys):
    path = tmp_path / "tcptrace.toml"
    path.write_text(text)

    assert 2 == run(["events", "--config", str(path)])
    assert problem in capsys.readouterr().err


def test_the_command_line_wins_over_the_configuration(tmp_path, capsys):
    path = tmp_path / "tcptrace.toml"
    path.write_text('[capture]\nlport = "80"\nring-size = "3M"\n')

    assert 2 == run(["events", "--config", str(path)])
    assert "bad ring size '3M'" in capsys.readouterr().err
    assert 2 == run(["events", "--config", str(path), "--ring-size", "4M", "--count", "0"])
    assert "bad count 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ([], ["live"]),
        (["--json"], ["live", "--json"]),
        (["-L", "80"], ["live", "-L", "80"]),
        (["events", "-L", "80"], ["events", "-L", "80"]),
        (["--help"], ["--help"]),
        (["--version"], ["--version"]),
        (["--debug"], ["--debug", "live"]),
        (["events", "--debug"], ["--debug", "events"]),
    ],
)
def test_without_a_command_it_is_live(given, understood):
    assert understood == with_command(given)


def test_every_command_has_help_with_an_example(capsys):
    names = [command.name for command in app.registered_commands]
    assert {"live", "events", "conns", "doctor"} <= set(names)
    for name in names:
        assert 0 == run([name, "--help"])
        out = capsys.readouterr().out
        assert "Example: " in out
        assert max(map(len, out.splitlines())) <= 100


def test_the_version_is_printed(capsys):
    assert 0 == run(["--version"])
    assert capsys.readouterr().out.startswith("tcptrace ")


#: Which folders a folder may import from, beside itself, errors and config.
MAY_IMPORT = {
    "events": set(),
    "kernel": {"events"},
    "log": {"events"},
    "state": {"events"},
    "reconcile": {"events", "kernel", "log", "state"},
    "watch": {"events", "kernel", "log", "state"},
    "views": {"events", "kernel", "log", "state", "reconcile", "watch"},
    "cli": {"events", "kernel", "log", "state", "reconcile", "watch", "views"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_go_one_way():
    wrong = []
    for folder, allowed in MAY_IMPORT.items():
        for path in (PACKAGE / folder).glob("*.py"):
            for name in imports(path):
                parts = name.split(".")
                if parts[0] == "tracer" and len(parts) > 1 and parts[1] in MAY_IMPORT and parts[1] not in allowed | {folder}:
                    wrong.append(f"{folder}/{path.name} imports {name}")

    assert [] == wrong


def test_only_the_loader_child_imports_bcc():
    outside = [
        path for path in PACKAGE.rglob("*.py") if "loader_child" not in path.parts and "bcc" in {n.split(".")[0] for n in imports(path)}
    ]

    assert [] == outside


def test_state_and_events_know_neither_the_clock_nor_rich():
    known = {name for folder in ("state",) for path in (PACKAGE / folder).glob("*.py") for name in imports(path)}

    assert not known & {"time", "datetime", "rich", "psutil"}
