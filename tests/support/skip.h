/* SPDX-License-Identifier: MIT */
/*
 * Leaving out a cmocka test where the host cannot run it. tests/check prints the feature, and fails
 * unless tests/allowed-skips lists the test. Include after <cmocka.h>.
 */
#ifndef TESTS_SUPPORT_SKIP_H
#define TESTS_SUPPORT_SKIP_H

#define SKIP_WITHOUT(feature_present, feature_name)                      \
    do {                                                                 \
        if (!(feature_present)) {                                        \
            print_message("missing host feature: %s\n", (feature_name)); \
            skip();                                                      \
        }                                                                \
    } while (0)

#endif
