# SPDX-License-Identifier: Apache-2.0
"""The command line of scripts/vmtest, which calls it with the lab's folder as first argument."""

import argparse
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bcc")]

from guest import Guest, Outcome, run_guest
from kernels import Kernel, LabError, choose, choose_host, read_list
from packages import boot_image, fetch
from roots import fetch_root
from suites import choose as choose_suites
from table import as_markdown

KERNEL_TESTS = ["tests/kernel"]
#: Exit code for what this machine cannot do, as everywhere.
CANNOT = 3
USAGE = 2
#: Exit code where no test failed, but a guest did not come to its end in time; as of timeout(1).
TOO_SLOW = 124


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and those for pytest behind "--"; without it all kernel tests."""
    if "--" not in arguments:
        return arguments, KERNEL_TESTS
    return arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    own, pytest_arguments = split_arguments(arguments)
    parser = argparse.ArgumentParser(
        prog="scripts/vmtest",
        usage="scripts/vmtest [OPTION...] [KERNEL...] [-- PYTEST-ARGUMENT...]",
        description="Runs the kernel tests on other kernels, in emulated guests on this machine's root file system.",
        epilog="Example: scripts/vmtest 6.1 7.2 -- tests/kernel -m guest",
    )
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="out of scripts/kernels.toml; all of them if none is given")
    parser.add_argument("--host", default="", metavar="NAME", help="boot them as this host of the list, and run its own tests")
    parser.add_argument("--list", action="store_true", help="print the kernels and leave")
    parser.add_argument("--refresh", action="store_true", help="get the kernels again, as new as they now are")
    parser.add_argument("--time-limit", type=float, default=5400, metavar="S", help="end a guest after so many seconds (%(default)g)")
    parser.add_argument("--kvm", action="store_true", help="use /dev/kvm; it may be there and not work, as in nested virtual machines")
    parser.add_argument("--bcc", metavar="SUITE", help="take BCC from another suite of Debian, as scripts/bcctest does")
    parser.add_argument("--markdown", action="store_true", help="print the results of the last runs as a table, and run nothing")
    return parser.parse_args(own), pytest_arguments


def say(text: str) -> None:
    print(f"vmtest: {text}", file=sys.stderr, flush=True)


def try_kernel(kernel: Kernel, lab: Path, options: argparse.Namespace, pytest_arguments: list[str]) -> Outcome:
    """
    Raises:
        LabError: the kernel cannot be had.
    """
    image = boot_image(fetch(kernel, lab, options.refresh))
    bcc = (options.bcc, fetch_root(options.bcc, lab.with_name("bcctest"), options.refresh)) if options.bcc else None
    guest = Guest(kernel, image, choose_host(options.host), pytest_arguments, options.time_limit, options.kvm, bcc)
    name = guest.results(lab).name
    say(f"{name}: booting {image}")
    started = time.monotonic()
    outcome = run_guest(guest, lab)
    how = "ended by the time limit" if outcome.exit_code is None else f"exit code {outcome.exit_code}"
    say(f"{name}: {how} after {time.monotonic() - started:.0f} s; see {outcome.results}")
    if not (outcome.results / "output.txt").exists():
        print((outcome.results / "console.log").read_text(errors="replace")[-4000:], flush=True)
    return outcome


def end_in_good_order(number: int, _: object) -> None:
    """Lets whoever has started a guest end it: the signal alone would leave it running."""
    sys.exit(128 + number)


def complain(error: LabError, code: int) -> int:
    print(f"tcptrace: error: {error}", file=sys.stderr)
    return code


def main(arguments: list[str]) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, end_in_good_order)
    lab = Path(arguments[0])
    options, pytest_arguments = parse(arguments[1:])
    try:
        chosen = choose(options.kernels)
        choose_host(options.host)
        choose_suites([options.bcc] if options.bcc else [])
    except LabError as error:
        return complain(error, USAGE)
    try:
        if options.list:
            print("\n".join(kernel.name for kernel in read_list()))
            return 0
        if options.markdown:
            print(as_markdown(lab, chosen, options.bcc))
            return 0
        outcomes = [try_kernel(kernel, lab, options, pytest_arguments) for kernel in chosen]
    except LabError as error:
        return complain(error, CANNOT)
    return exit_code(outcomes)


def exit_code(outcomes: list[Outcome]) -> int:
    codes = {outcome.exit_code for outcome in outcomes}
    if codes - {0, None}:
        return 1
    return TOO_SLOW if None in codes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
