/* SPDX-License-Identifier: MIT */
/* What rows exec_static and exec_dynamic start: it ends at once. */
int main(void)
{
    return 7;
}
