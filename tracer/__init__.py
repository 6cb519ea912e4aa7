# SPDX-License-Identifier: Apache-2.0
"""tcptrace: every TCP connection of a Linux host, live, exactly, at almost no cost to the host."""

__version__ = "0.1.0"
