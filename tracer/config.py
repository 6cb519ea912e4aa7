# SPDX-License-Identifier: Apache-2.0
"""
The configuration file of --config: TOML, strict.

Its table [capture] gives the capture options under their long names, as on the command line, which wins over it:

    [capture]
    lport = "443,8443"
    ring-size = "16M"
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from tracer.errors import UsageError


def read_config(path: Path, options: type[Any]) -> dict[str, Any]:
    """
    The values that the file sets, by field name of the dataclass *options*.

    Raises:
        UsageError: the file cannot be read, is no TOML, or has an unknown name or a value of the wrong type.
    """
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=_shape(options))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "give a TOML file that you may read") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"bad configuration {path}: {error}", "use the long names of the options, in a table [capture]") from error
    values = {name: getattr(found.capture, name) for name in found.capture.__struct_fields__}
    return {name: value for name, value in values.items() if value is not msgspec.UNSET}


def _shape(options: type[Any]) -> Any:
    """The file's type: every field of *options* but the path of the file itself, none required."""
    hints: Mapping[str, Any] = get_type_hints(options)
    names = [field.name for field in dataclasses.fields(options) if field.name != "config"]
    fields = [(name, _plain(hints[name]) | msgspec.UnsetType, msgspec.UNSET) for name in names]
    capture = msgspec.defstruct("Capture", fields, rename="kebab", forbid_unknown_fields=True)
    return msgspec.defstruct("Config", [("capture", capture, msgspec.field(default_factory=capture))], forbid_unknown_fields=True)


def _plain(hint: Any) -> Any:
    """A path is written as a string; everything else is of the type that it has on the command line."""
    return str | None if Path in getattr(hint, "__args__", ()) else hint
