/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096
#endif
