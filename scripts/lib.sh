# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What the scripts share: installing what is missing, and starting Python. Sourced, with "set -euo pipefail".
#
# Everything is said on stderr: stdout belongs to the program. Whatever cannot be had ends the script with status 3,
# the program's own status for "this host cannot trace".

# The scripts resolve links to themselves, so this is the clone, whatever path they were started by.
root=${BASH_SOURCE[0]%/*/*}
venv=$root/.venv
# The system's own Python: BCC is installed for no other.
system_python=/usr/bin/python3
system_packages=(python3 python3-venv python3-bpfcc)
root_cache=/var/cache/tcptrace

say() {
  printf 'tcptrace: setting up: %s\n' "$*" >&2
}

fail() {
  printf 'tcptrace: error: %s\n' "$*" >&2
  exit 3
}

# Runs a command that is only heard when it fails: then the end of its output is shown, and the error, $1, ends the script.
attempt() {
  local error=$1 output
  shift
  if ! output=$("$@" 2>&1 </dev/null); then
    if [[ $output ]]; then tail -n 15 <<<"$output" >&2; fi
    fail "$error"
  fi
}

# Waits until no other set-up works in the directory $1. The lock goes when the last process that has it open ends, so a
# pip that outlives a killed script still holds it.
lock() {
  exec {lock_fd}<"$1"
  if ! flock --nonblock "$lock_fd"; then
    say "waiting for another set-up to end"
    flock "$lock_fd"
  fi
}

unlock() {
  exec {lock_fd}<&-
}

as_root() {
  ((EUID == 0))
}

# Whether root works in someone else's clone, as with sudo.
is_guest() {
  as_root && [[ ! -O $root ]]
}

has_apt() {
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null
}

# Looks for the file, because importing it takes longer than everything else here. libbcc.py, because PyPI has an unrelated bcc.
# Whoever names a Python for it has taken care of that.
has_bcc() {
  [[ ${TCPTRACE_BCC_PYTHON:-} ]] || compgen -G '/usr/lib/python3*/*-packages/bcc/libbcc.py' >/dev/null
}

can_import() {
  "$system_python" -I -c "import $1" 2>/dev/null
}

missing_packages() {
  local package state
  local -A installed=()
  while read -r package state; do
    if [[ $state == installed ]]; then installed[$package]=1; fi
  done < <(dpkg-query --show --showformat '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null)
  for package; do
    if [[ ! -v installed[$package] ]]; then echo "$package"; fi
  done
}

# apt-get, patient: only the lock of dpkg has a timeout; the one of the package lists, which a freshly booted machine's
# daily update holds, fails at once.
apt_get() {
  local deadline=$((SECONDS + 300)) output
  until output=$(LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" 2>&1); do
    if [[ $output != *"Could not get lock"* ]] || ((SECONDS >= deadline)); then
      printf '%s\n' "$output"
      return 1
    fi
    sleep 2
  done
  printf '%s\n' "$output"
}

# Fetches the package lists only when there are none, or when they do not serve. A failed update is no failure yet: it may
# be about a source that has none of these packages.
apt_install() {
  local install=(install --yes --no-install-recommends "$@")
  if compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null && apt_get "${install[@]}"; then return; fi
  apt_get update || true
  apt_get "${install[@]}"
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if ((${#missing[@]})); then
    say "Debian packages ${missing[*]}"
    attempt "cannot install ${missing[*]}: check the network and the sources of apt, then run this again" \
      apt_install "${missing[@]}"
  fi
}

check_python() {
  if ! "$system_python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    fail "cannot use $system_python: it is older than Python 3.11; use Debian 12 or later"
  fi
}

# What only root can install: $@ are further Debian packages.
set_up_system() {
  # Before anything is installed in vain.
  if [[ -x $system_python ]]; then check_python; fi
  if has_apt; then install_packages "${system_packages[@]}" "$@"; fi
  if [[ ! -x $system_python ]]; then
    fail "cannot find $system_python: install Python 3.11 or later"
  fi
  check_python
  if ! has_bcc && ! can_import bcc.libbcc; then
    fail "cannot import bcc in $system_python: install BCC's Python bindings (python3-bpfcc, python3-bcc or python-bcc)"
  fi
}

# The versioned name: an environment of Python 3.11 breaks visibly, and is made again, once a system has only 3.13.
make_venv() {
  attempt "cannot make the virtual environment $1: remove what is in its way, or make room, then run this again" \
    "$(readlink -f "$system_python")" -I -m venv --clear "$1"
}

# Prints what pyproject.toml, $1, requires, with all extras and the dependency groups $2..., one requirement per line.
# pip could read it, but not with Debian 12's version the groups, nor anything without a build backend.
requirements() {
  "$system_python" -I - "$@" <<'PYTHON'
import re
import sys
import tomllib

path, *groups = sys.argv[1:]
try:
    with open(path, "rb") as file:
        pyproject = tomllib.load(file)
except (OSError, ValueError) as error:
    sys.exit(str(error))
project = pyproject["project"]


def members(group):
    for item in pyproject["dependency-groups"][group]:
        yield from members(item["include-group"]) if isinstance(item, dict) else [item]


wanted = list(project.get("dependencies", []))
for extra in project.get("optional-dependencies", {}).values():
    # An extra may name others as "tcptrace[other]"; they are all here anyway.
    wanted += [item for item in extra if re.match(r"[\w.-]*", item)[0].lower() != project["name"].lower()]
for group in groups:
    wanted += members(group)
print("\n".join(dict.fromkeys(wanted)))
PYTHON
}

# Installs into the virtual environment $1 what follows.
pip_install() {
  local python=$1/bin/python
  shift
  attempt "cannot install the Python packages: check the network and the settings of pip, then run this again" \
    "$python" -I -m pip --quiet --disable-pip-version-check --no-input install "$@"
}

# Beside the environment's own files lie a copy of the pyproject.toml that it was completed for, with and without the
# development tools, and while it is being changed the one that it will be complete for.
run_stamp=$venv/.tcptrace-run.toml
dev_stamp=$venv/.tcptrace-dev.toml
new_stamp=$venv/.tcptrace-new.toml

# Whether the environment has what the kind of set-up $1, "run" or "dev", asks for. Neither starts Python nor asks dpkg, so
# that it costs nothing to ask each time.
venv_is_ready() {
  local stamp=$venv/.tcptrace-$1.toml
  [[ -x $venv/bin/python && -e $stamp && ! -e $new_stamp && $(<"$stamp") == "$(<"$root/pyproject.toml")" ]]
}

is_ready() {
  venv_is_ready "$1" && { ! as_root || has_bcc; }
}

# Whether every change to the environment that was begun was also ended.
venv_is_whole() {
  [[ -x $venv/bin/python && -e $run_stamp && ! -e $new_stamp ]]
}

# Nothing in the clone stays behind that its owner cannot remove. -h: bin/python is a link to the system's.
give_venv_to_owner() {
  if is_guest && [[ -d $venv ]]; then
    chown -R -h --reference="$root" -- "$venv" || true
  fi
}

# However the set-up ends. Where pip failed before it installed anything, as without a network, the environment still is
# what it was, and serves again when pyproject.toml is as before.
leave_venv() {
  local packages=("$venv"/lib/python3*/site-packages)
  if [[ -e $new_stamp && ! ${packages[0]} -nt $new_stamp ]]; then rm -f -- "$new_stamp"; fi
  give_venv_to_owner
}

set_up_venv() {
  local kind=$1 groups=() wanted
  if [[ $kind == dev ]]; then groups=(dev); fi
  if ! venv_is_whole; then
    say "virtual environment $venv"
    make_venv "$venv"
  fi
  # Read once: what a git pull brings in the meantime must not be taken for installed.
  cp -- "$root/pyproject.toml" "$new_stamp"
  wanted=$(requirements "$new_stamp" "${groups[@]}") || fail "cannot read $root/pyproject.toml: repair it"
  mapfile -t wanted <<<"$wanted"
  say "Python packages ${wanted[*]}"
  pip_install "$venv" "${wanted[@]}"
  rm -f -- "$dev_stamp"
  if [[ $kind == dev ]]; then cp -- "$new_stamp" "$dev_stamp"; fi
  give_venv_to_owner
  mv -- "$new_stamp" "$run_stamp"
}

# Without root a complete system can still do what needs no BCC, such as replaying a recording.
check_user_can_set_up() {
  local name=${0##*/}
  if [[ ! -x $system_python ]] || ! can_import ensurepip || [[ ! -w $root || ( -e $venv && ! -w $venv ) ]]; then
    fail "cannot set up $root without root: run: sudo scripts/$name"
  fi
  check_python
}

# Installs what is missing for $1, "run" or "dev", and the further Debian packages that follow.
set_up() {
  local kind=$1
  shift
  # pip ends with an ordinary failure when it is interrupted; the script must not explain that one.
  trap 'exit 130' INT
  trap leave_venv EXIT
  if as_root; then
    lock "$root"
    set_up_system "$@"
  else
    check_user_can_set_up
    lock "$root"
  fi
  if ! venv_is_ready "$kind"; then set_up_venv "$kind"; fi
  unlock
  trap - INT EXIT
}

# Keeps root's caches out of someone else's clone, where their owner could not remove them.
keep_caches_out() {
  if ! (umask 022 && mkdir -p "$root_cache") 2>/dev/null; then
    export PYTHONDONTWRITEBYTECODE=1
    return
  fi
  export PYTHONPYCACHEPREFIX=$root_cache/pycache
  export RUFF_CACHE_DIR=$root_cache/ruff MYPY_CACHE_DIR=$root_cache/mypy HYPOTHESIS_STORAGE_DIRECTORY=$root_cache/hypothesis
  export PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} -o cache_dir=$root_cache/pytest"
}

# Lets the environment's Python find the package from any folder, and nothing else: a PYTHONPATH of the user's would come
# before the installed packages.
prepare_python() {
  unset PYTHONHOME
  export PYTHONPATH=$root
  if is_guest; then keep_caches_out; fi
}

# The environment's Python. -P: what lies in the current folder, which may be anyone's, is not imported.
run_python() {
  "$venv/bin/python" -P "$@"
}

exec_python() {
  exec "$venv/bin/python" -P "$@"
}
