/* SPDX-License-Identifier: MIT */
/*
 * Keyboard controller 8042 and an AT keyboard (IBM Personal System/2 Technical Reference, "Keyboard
 * and Auxiliary Device Controller" and "Keyboard"). Thread rule: register access under the device's
 * lock, taken by the bus. The guest controls every written byte.
 *
 * There is no auxiliary port: its test reports a fault, and its loop-back answers as the keyboard
 * would, which a driver takes at once for "none" instead of waiting for a time-out. Nobody types on
 * this keyboard; it answers its commands. The controller's answers and the keyboard's wait in one
 * queue; the output buffer is its first byte.
 */
#include "dev/i8042.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE       16
#define MEMORY      32 /* the controller's RAM; byte 0 is the control byte */
#define PULSE_RESET 0x01

/* Controller commands. */
enum {
    READ_MEMORY = 0x20,  /* … 0x3f */
    WRITE_MEMORY = 0x60, /* … 0x7f */
    DISABLE_AUX = 0xa7,
    ENABLE_AUX = 0xa8,
    TEST_AUX = 0xa9,
    SELF_TEST = 0xaa,
    TEST_KEYBOARD = 0xab,
    DISABLE_KEYBOARD = 0xad,
    ENABLE_KEYBOARD = 0xae,
    READ_INPUT_PORT = 0xc0,
    READ_OUTPUT_PORT = 0xd0,
    WRITE_OUTPUT_PORT = 0xd1,
    WRITE_KEYBOARD_BUFFER = 0xd2,
    WRITE_AUX_BUFFER = 0xd3,
    WRITE_AUX = 0xd4,
    CLOSE_A20 = 0xdd,
    OPEN_A20 = 0xdf,
    PULSE = 0xf0, /* … 0xff: the bits that are 0 are pulsed low */
};

#define SELF_TEST_PASSED 0x55
#define TEST_PASSED      0x00
#define TEST_AUX_FAULT   0x02 /* clock line stuck high */
#define INPUT_PORT       0x80 /* keyboard not inhibited */
#define OUTPUT_RESET     0x01 /* active low */
#define OUTPUT_A20       0x02
#define OUTPUT_INTERRUPT 0x10
#define NO_COMMAND       0
#define CONTROL_BITS     0x7f
#define CONTROL_INITIAL  (I8042_CONTROL_SYSTEM | I8042_CONTROL_AUX_DISABLED)

/* Keyboard commands and answers. */
enum {
    SET_LIGHTS = 0xed,
    ECHO = 0xee,
    SCAN_CODE_SET = 0xf0,
    IDENTIFY = 0xf2,
    SET_RATE = 0xf3,
    ENABLE = 0xf4,
    DEFAULT_DISABLE = 0xf5,
    SET_DEFAULT = 0xf6,
    SET_ALL_TYPEMATIC = 0xf7, /* … 0xfa: for all keys */
    SET_ALL_LAST = 0xfa,
    RESEND = 0xfe,
    RESET = 0xff,
};

#define ANSWER_ACK     0xfa
#define ANSWER_RESEND  0xfe
#define ANSWER_TESTED  0xaa
#define IDENTITY_1     0xab
#define IDENTITY_2     0x83
#define IDENTITY_2_XT  0x41 /* the same through the translation to set 1 */
#define SCAN_CODE_SETS 3

struct i8042 {
    pthread_mutex_t lock;
    struct irq_line line;
    struct a20 *a20;
    struct machine_sink sink;

    uint8_t memory[MEMORY];
    uint8_t output_port;
    uint8_t status; /* SYSTEM and COMMAND; the rest is computed */
    uint8_t queue[QUEUE];
    uint8_t queue_first, queue_count;
    uint8_t command;          /* of the controller, waiting for its data byte */
    uint8_t keyboard_command; /* likewise of the keyboard */
    uint8_t scan_code_set, lights, rate, scanning;
    uint8_t last_answer;
};

static void update(struct i8042 *k)
{
    irq_line_set(&k->line, k->queue_count > 0 && (k->memory[0] & I8042_CONTROL_INTERRUPT));
}

/* A byte that does not fit is lost, as by a keyboard whose buffer is full. */
static void put(struct i8042 *k, uint8_t byte)
{
    if (k->queue_count == QUEUE)
        return;
    k->queue[(k->queue_first + k->queue_count) % QUEUE] = byte;
    k->queue_count++;
}

static void answer(struct i8042 *k, uint8_t byte)
{
    k->last_answer = byte;
    put(k, byte);
}

static void keyboard_defaults(struct i8042 *k)
{
    k->scan_code_set = 2;
    k->rate = 0x2b; /* 10.9 a second after 500 ms */
    k->lights = 0;
    k->keyboard_command = NO_COMMAND;
}

static void keyboard_parameter(struct i8042 *k, uint8_t value)
{
    uint8_t command = k->keyboard_command;

    k->keyboard_command = NO_COMMAND;
    if (command == SCAN_CODE_SET && value > SCAN_CODE_SETS) {
        answer(k, ANSWER_RESEND);
        return;
    }
    answer(k, ANSWER_ACK);
    if (command == SET_LIGHTS)
        k->lights = value;
    else if (command == SET_RATE)
        k->rate = value;
    else if (value == 0) /* SCAN_CODE_SET 0 asks for the present one */
        answer(k, k->scan_code_set);
    else
        k->scan_code_set = value;
}

static void keyboard_write(struct i8042 *k, uint8_t value)
{
    if (k->keyboard_command != NO_COMMAND && value < SET_LIGHTS) {
        keyboard_parameter(k, value);
        return;
    }
    k->keyboard_command = NO_COMMAND;
    switch (value) {
    case SET_LIGHTS:
    case SCAN_CODE_SET:
    case SET_RATE:
        k->keyboard_command = value;
        answer(k, ANSWER_ACK);
        break;
    case ECHO:
        answer(k, ECHO);
        break;
    case IDENTIFY:
        answer(k, ANSWER_ACK);
        answer(k, IDENTITY_1);
        answer(k, k->memory[0] & I8042_CONTROL_TRANSLATE ? IDENTITY_2_XT : IDENTITY_2);
        break;
    case ENABLE:
    case DEFAULT_DISABLE:
    case SET_DEFAULT:
        if (value != ENABLE)
            keyboard_defaults(k);
        if (value != SET_DEFAULT)
            k->scanning = value == ENABLE;
        answer(k, ANSWER_ACK);
        break;
    case SET_ALL_TYPEMATIC ... SET_ALL_LAST:
        answer(k, ANSWER_ACK);
        break;
    case RESEND:
        put(k, k->last_answer);
        break;
    case RESET:
        keyboard_defaults(k);
        k->scanning = true;
        answer(k, ANSWER_ACK);
        answer(k, ANSWER_TESTED);
        break;
    default:
        answer(k, ANSWER_RESEND);
        break;
    }
}

static void write_output_port(struct i8042 *k, uint8_t value)
{
    bool was_running = k->output_port & OUTPUT_RESET;

    k->output_port = value & ~OUTPUT_A20;
    a20_set(k->a20, value & OUTPUT_A20);
    if (was_running && !(value & OUTPUT_RESET))
        k->sink.events->reset(k->sink.context, "the keyboard controller's output port");
}

static void controller_data(struct i8042 *k, uint8_t value)
{
    uint8_t command = k->command;

    k->command = NO_COMMAND;
    switch (command) {
    case WRITE_MEMORY ... WRITE_MEMORY + MEMORY - 1:
        k->memory[command - WRITE_MEMORY] = value;
        if (command == WRITE_MEMORY) {
            k->memory[0] = (value & CONTROL_BITS) | I8042_CONTROL_AUX_DISABLED;
            k->status &= ~I8042_STATUS_SYSTEM;
            k->status |= value & I8042_CONTROL_SYSTEM;
        }
        break;
    case WRITE_OUTPUT_PORT:
        write_output_port(k, value);
        break;
    case WRITE_KEYBOARD_BUFFER:
    case WRITE_AUX_BUFFER:
        put(k, value);
        break;
    case WRITE_AUX:
        put(k, ANSWER_RESEND); /* nobody there */
        break;
    default: /* for the keyboard; a byte to it enables it (PS/2: "Keyboard and …", command AD) */
        k->memory[0] &= ~I8042_CONTROL_DISABLED;
        keyboard_write(k, value);
        break;
    }
}

static void controller_command(struct i8042 *k, uint8_t value)
{
    k->command = NO_COMMAND;
    switch (value) {
    case READ_MEMORY ... READ_MEMORY + MEMORY - 1:
        put(k, k->memory[value - READ_MEMORY]);
        break;
    case WRITE_MEMORY ... WRITE_MEMORY + MEMORY - 1:
    case WRITE_OUTPUT_PORT:
    case WRITE_KEYBOARD_BUFFER:
    case WRITE_AUX_BUFFER:
    case WRITE_AUX:
        k->command = value;
        break;
    case TEST_AUX:
        put(k, TEST_AUX_FAULT);
        break;
    case SELF_TEST:
        k->queue_count = 0;
        k->status |= I8042_STATUS_SYSTEM;
        k->memory[0] |= I8042_CONTROL_SYSTEM;
        put(k, SELF_TEST_PASSED);
        break;
    case TEST_KEYBOARD:
        put(k, TEST_PASSED);
        break;
    case DISABLE_KEYBOARD:
        k->memory[0] |= I8042_CONTROL_DISABLED;
        break;
    case ENABLE_KEYBOARD:
        k->memory[0] &= ~I8042_CONTROL_DISABLED;
        break;
    case READ_INPUT_PORT:
        put(k, INPUT_PORT);
        break;
    case READ_OUTPUT_PORT:
        put(k, k->output_port | (a20_is_open(k->a20) ? OUTPUT_A20 : 0) |
                   (k->queue_count > 0 ? OUTPUT_INTERRUPT : 0));
        break;
    case CLOSE_A20:
    case OPEN_A20:
        a20_set(k->a20, value == OPEN_A20);
        break;
    case PULSE ... 0xff:
        if (!(value & PULSE_RESET))
            k->sink.events->reset(k->sink.context, "the keyboard controller's pulse command");
        break;
    default: /* ENABLE_AUX, DISABLE_AUX: there is none; unknown ones are ignored */
        break;
    }
}

static uint8_t read_data(struct i8042 *k)
{
    uint8_t value = k->queue[k->queue_first];

    if (k->queue_count > 0) {
        k->queue_first = (k->queue_first + 1) % QUEUE;
        k->queue_count--;
        irq_line_set(&k->line, false); /* a new edge for each byte */
    }
    return value;
}

static uint64_t data_read(void *device, uint64_t offset, unsigned size)
{
    struct i8042 *k = device;
    uint8_t value = read_data(k);
    update(k);
    return value;
}

static void data_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8042 *k = device;
    k->status &= ~I8042_STATUS_COMMAND;
    controller_data(k, (uint8_t)value);
    update(k);
}

static uint64_t status_read(void *device, uint64_t offset, unsigned size)
{
    struct i8042 *k = device;
    return k->status | I8042_STATUS_OPEN | (k->queue_count > 0 ? I8042_STATUS_OUTPUT : 0);
}

static void command_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8042 *k = device;
    k->status |= I8042_STATUS_COMMAND;
    controller_command(k, (uint8_t)value);
    update(k);
}

static const struct bus_ops data_ops = {
    .read = data_read,
    .write = data_write,
    .max_size = 1,
};

static const struct bus_ops command_ops = {
    .read = status_read,
    .write = command_write,
    .max_size = 1,
};

int i8042_create(struct i8042 **out, struct bus *bus, struct irq_line line, struct a20 *a20,
                 struct machine_sink sink, struct error *e)
{
    struct i8042 *k = calloc(1, sizeof(*k));
    if (k == NULL)
        return error_set(e, ENOMEM, "no memory for the keyboard controller");
    pthread_mutex_init(&k->lock, NULL);
    k->line = line;
    k->a20 = a20;
    k->sink = sink;
    i8042_reset(k);
    int err = bus_add(bus, BUS_PIO, "i8042 data", I8042_DATA, 1, &data_ops, k, &k->lock, e);
    if (err == 0)
        err = bus_add(bus, BUS_PIO, "i8042 command", I8042_STATUS, 1, &command_ops, k, &k->lock, e);
    if (err != 0) {
        i8042_destroy(k);
        return err;
    }
    *out = k;
    return 0;
}

void i8042_destroy(struct i8042 *k)
{
    if (k == NULL)
        return;
    pthread_mutex_destroy(&k->lock);
    free(k);
}

void i8042_reset(struct i8042 *k)
{
    pthread_mutex_lock(&k->lock);
    memset(k->memory, 0, sizeof(k->memory));
    k->memory[0] = CONTROL_INITIAL | I8042_CONTROL_TRANSLATE; /* as firmware leaves it */
    k->output_port = OUTPUT_RESET;
    k->status = I8042_STATUS_SYSTEM;
    memset(k->queue, 0, sizeof(k->queue));
    k->queue_first = k->queue_count = 0;
    k->command = NO_COMMAND;
    k->last_answer = 0;
    keyboard_defaults(k);
    k->scanning = true;
    update(k);
    pthread_mutex_unlock(&k->lock);
}

static int state_check(const void *object, struct error *e)
{
    const struct i8042 *k = object;
    static const char text[] = "saved state: i8042: %s is out of range";

    if ((k->memory[0] & ~CONTROL_BITS) || !(k->memory[0] & I8042_CONTROL_AUX_DISABLED))
        return error_set(e, EINVAL, text, "memory");
    if (k->status & ~(I8042_STATUS_SYSTEM | I8042_STATUS_COMMAND))
        return error_set(e, EINVAL, text, "status");
    if (k->output_port & OUTPUT_A20) /* the A20 gate's */
        return error_set(e, EINVAL, text, "output_port");
    if (k->queue_first >= QUEUE)
        return error_set(e, EINVAL, text, "queue_first");
    if (k->queue_count > QUEUE)
        return error_set(e, EINVAL, text, "queue_count");
    if (k->scan_code_set < 1 || k->scan_code_set > SCAN_CODE_SETS)
        return error_set(e, EINVAL, text, "scan_code_set");
    if (k->scanning > 1)
        return error_set(e, EINVAL, text, "scanning");
    return 0;
}

static void state_loaded(void *object)
{
    struct i8042 *k = object;
    pthread_mutex_lock(&k->lock);
    update(k);
    pthread_mutex_unlock(&k->lock);
}

static const struct field fields[] = {
    FIELD_ARRAY(struct i8042, memory),  FIELD(struct i8042, output_port),
    FIELD(struct i8042, status),        FIELD_ARRAY(struct i8042, queue),
    FIELD(struct i8042, queue_first),   FIELD(struct i8042, queue_count),
    FIELD(struct i8042, command),       FIELD(struct i8042, keyboard_command),
    FIELD(struct i8042, scan_code_set), FIELD(struct i8042, lights),
    FIELD(struct i8042, rate),          FIELD(struct i8042, scanning),
    FIELD(struct i8042, last_answer),   FIELD_END,
};

const struct field_table i8042_state = {
    .name = "i8042",
    .version = 1,
    .size = sizeof(struct i8042),
    .fields = fields,
    .check = state_check,
    .loaded = state_loaded,
};
