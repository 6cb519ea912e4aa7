# SPDX-License-Identifier: Apache-2.0


def pytest_addoption(parser):
    parser.addoption("--new-screens", action="store_true", help="Write the screens of tests/unit/screens anew; look at them afterwards.")
