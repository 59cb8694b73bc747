# SPDX-License-Identifier: MIT
SOAK_DEPS += guest
