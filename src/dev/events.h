/* SPDX-License-Identifier: MIT */
/*
 * What a device may ask of the machine. Called on a vCPU's thread with the device's lock held: the
 * machine notes the wish, sets VCPU_REQUEST_STOP and returns; it never calls back into the device.
 */
#ifndef DOPPEL_DEV_EVENTS_H
#define DOPPEL_DEV_EVENTS_H

#include <stdbool.h>

struct machine_events {
    void (*reset)(void *context, const char *by); /* by: the register, for the log */
    void (*a20)(void *context, bool open);        /* of the next instructions of every processor */
    void (*power_off)(void *context);
    void (*panic)(void *context, bool crash_kernel); /* crash_kernel: the guest goes on, to dump */
    void (*debug_exit)(void *context, int status);   /* 0…255, odd */
};

struct machine_sink {
    const struct machine_events *events;
    void *context;
};

#endif
