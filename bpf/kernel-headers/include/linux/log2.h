/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* BCC's helpers.h includes this file and uses nothing of it that we need. */
