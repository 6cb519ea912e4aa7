# SPDX-License-Identifier: Apache-2.0
"""The console's screens: pure functions from a picture, a size and a look to lines of text."""
