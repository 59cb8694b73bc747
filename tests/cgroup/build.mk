# SPDX-License-Identifier: MIT
TEST_DEPS += guest
