/* SPDX-License-Identifier: MIT */
/*
 * ACPI tables for the PC (ACPI 6.4 chapter 5); see acpi.h. Made on the wiring thread, before the
 * guest runs. The guest controls nothing here; later it may scribble over the tables, which are
 * plain RAM because the FACS holds the global lock.
 */
#include "boot/acpi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/aml.h"
#include "boot/memmap.h"

enum { SPACE_MEMORY = 0, SPACE_IO = 1 }; /* of an address */
enum { ACCESS_ANY = 0, ACCESS_BYTE = 1, ACCESS_WORD = 2, ACCESS_DWORD = 3 };

struct __attribute__((packed)) address { /* generic address structure (5.2.3.2) */
    uint8_t space, bit_width, bit_offset, access;
    uint64_t at;
};

struct __attribute__((packed)) header { /* of every table but RSDP and FACS (5.2.6) */
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem_id[6], oem_table_id[8];
    uint32_t oem_revision;
    char creator_id[4];
    uint32_t creator_revision;
};

struct __attribute__((packed)) rsdp { /* 5.2.5.3 */
    char signature[8];
    uint8_t checksum;
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt, length;
    uint64_t xsdt;
    uint8_t extended_checksum, reserved[3];
};

struct __attribute__((packed)) facs { /* 5.2.10 */
    char signature[4];
    uint32_t length, hardware_signature, waking_vector, global_lock, flags;
    uint64_t x_waking_vector;
    uint8_t version, reserved[31];
};

struct __attribute__((packed)) fadt { /* 5.2.9 */
    struct header h;
    uint32_t firmware_ctrl, dsdt;
    uint8_t reserved0, preferred_pm_profile;
    uint16_t sci_int;
    uint32_t smi_cmd;
    uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
    uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk, pm2_cnt_blk, pm_tmr_blk;
    uint32_t gpe0_blk, gpe1_blk;
    uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_blk_len, gpe1_blk_len;
    uint8_t gpe1_base, cst_cnt;
    uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
    uint16_t iapc_boot_arch;
    uint8_t reserved1;
    uint32_t flags;
    struct address reset_reg;
    uint8_t reset_value;
    uint16_t arm_boot_arch;
    uint8_t minor_version;
    uint64_t x_firmware_ctrl, x_dsdt;
    struct address x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk, x_pm2_cnt_blk;
    struct address x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk, sleep_control, sleep_status;
    uint64_t hypervisor_vendor;
};
_Static_assert(sizeof(struct fadt) == 276, "FADT of ACPI 6 (5.2.9)");
_Static_assert(sizeof(struct facs) == 64, "FACS (5.2.10)");
_Static_assert(sizeof(struct rsdp) == ACPI_RSDP_SIZE, "RSDP (5.2.5.3)");
_Static_assert(offsetof(struct rsdp, rsdt) == ACPI_RSDP_RSDT, "RSDP (5.2.5.3)");
_Static_assert(offsetof(struct rsdp, xsdt) == ACPI_RSDP_XSDT, "RSDP (5.2.5.3)");

enum { /* FADT flags (table 5.10) */
       FADT_WBINVD = 1 << 0,
       FADT_PROC_C1 = 1 << 2,
       FADT_PWR_BUTTON = 1 << 4, /* set: no fixed power button; nor is there one in the DSDT */
       FADT_SLP_BUTTON = 1 << 5, /* set: no fixed sleep button */
       FADT_FIX_RTC = 1 << 6,    /* set: the RTC does not wake through fixed registers */
       FADT_TMR_VAL_EXT = 1 << 8,
       FADT_RESET_REG_SUP = 1 << 10,
};
enum { /* boot architecture flags (table 5.11); VGA not present = no probing for it */
       FADT_LEGACY_DEVICES = 1 << 0,
       FADT_8042 = 1 << 1,
       FADT_VGA_NOT_PRESENT = 1 << 2,
};
enum { FADT_PROFILE_ENTERPRISE_SERVER = 4, RTC_CENTURY = 0x32 };

enum { /* MADT entries (table 5.21), and the flag of 5.2.12 */
       MADT_LAPIC = 0,
       MADT_IOAPIC = 1,
       MADT_OVERRIDE = 2,
       MADT_LAPIC_NMI = 4,
       MADT_X2APIC = 9,
       MADT_X2APIC_NMI = 10,
       MADT_PCAT_COMPAT = 1,
       MADT_ENABLED = 1,
       MADT_ACTIVE_HIGH_LEVEL = 0x0d,
};

/* What is built: the image, and the address of its first byte as the tables state it. */
struct area {
    struct acpi_image *image;
    uint64_t base;
    bool full;
};

struct acpi_config acpi_config_default(unsigned cpus)
{
    return (struct acpi_config){
        .cpus = cpus,
        .pm1_event = 0x600,
        .pm1_control = 0x604,
        .pm_timer = 0x608,
        .gpe0 = 0x620,
        .gpe0_length = 4,
        .sci = 9,
        .smi_command = 0xb2,
        .acpi_enable = 0xf1,
        .acpi_disable = 0xf0,
        .s5_sleep_type = 5,
        .reset_port = 0xcf9,
        .reset_value = 6,
        .ioapic = MEMMAP_IOAPIC,
        .ioapic_id = 0,
        .lapic = MEMMAP_LAPIC,
        .hpet = MEMMAP_HPET,
        .hpet_id = 0x8086a201,
        .pvpanic_port = 0x505,
        .pci_config = 0xcf8,
    };
}

static uint8_t checksum(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint8_t sum = 0;
    while (n-- > 0)
        sum = (uint8_t)(sum + *p++);
    return (uint8_t)-sum;
}

/* Copies n bytes to the next place aligned to 64 bytes (the FACS wants that); its address. */
static uint64_t place(struct area *a, const void *bytes, size_t n)
{
    struct acpi_image *i = a->image;
    size_t at = (i->size + 63) & ~(size_t)63;
    if (a->full || at > sizeof(i->bytes) || n > sizeof(i->bytes) - at) {
        a->full = true;
        return 0;
    }
    memcpy(i->bytes + at, bytes, n);
    i->size = at + n;
    return a->base + at;
}

/* The table at `table` has an address of `size` bytes at `offset`. */
static void note_pointer(struct area *a, uint64_t table, size_t offset, uint8_t size)
{
    struct acpi_image *i = a->image;
    if (i->pointer_count == ACPI_POINTERS_MAX)
        a->full = true;
    else
        i->pointers[i->pointer_count++] =
            (struct acpi_pointer){(uint32_t)(table - a->base + offset), size};
}

/* Completes the header of a table of n bytes and places it. */
static uint64_t place_table(struct area *a, struct header *h, const char *signature,
                            uint8_t revision, size_t n)
{
    memcpy(h->signature, signature, 4);
    h->length = (uint32_t)n;
    h->revision = revision;
    h->checksum = 0;
    memcpy(h->oem_id, "DOPPEL", 6);
    memcpy(h->oem_table_id, "DOPPELPC", 8);
    h->oem_revision = 1;
    memcpy(h->creator_id, "DOPL", 4);
    h->creator_revision = 1;
    h->checksum = checksum(h, n);
    uint64_t at = place(a, h, n);
    if (a->image->table_count == ACPI_TABLES_MAX)
        a->full = true;
    else
        a->image->tables[a->image->table_count++] =
            (struct acpi_table){(uint32_t)(at - a->base), (uint32_t)n};
    return at;
}

static void device_begin(struct aml *a, const char *name, const char *eisa_id)
{
    aml_begin_device(a, name);
    aml_name(a, "_HID");
    if (strncmp(eisa_id, "PNP", 3) == 0)
        aml_eisa_id(a, eisa_id);
    else
        aml_string(a, eisa_id);
    aml_name(a, "_STA");
    aml_integer(a, 0xf); /* present, enabled, shown, working (6.3.7) */
    aml_name(a, "_CRS");
    aml_begin_resources(a);
}

static void device_end(struct aml *a)
{
    aml_end_resources(a);
    aml_end(a);
}

/* The root bridge with what it passes on: all ports but its own, the VGA window, the hole below the
 * chipset's registers. No function has an interrupt pin, so there is no routing table. */
static void dsdt_pci(struct aml *a, const struct acpi_config *c)
{
    device_begin(a, "PCI0", "PNP0A03");
    aml_bus_window(a, 0, 0xff);
    aml_io(a, c->pci_config, 8);
    aml_io_window(a, 0, c->pci_config - 1);
    aml_io_window(a, c->pci_config + 8, 0xffff);
    aml_memory_window(a, MEMMAP_LOW_END, MEMMAP_SHADOW - 1);
    aml_memory_window(a, MEMMAP_HOLE, MEMMAP_IOAPIC - 1);
    aml_end_resources(a);
    aml_name(a, "_UID");
    aml_integer(a, 0);
    aml_end(a);
}

static void dsdt_devices(struct aml *a, const struct acpi_config *c)
{
    device_begin(a, "COM1", "PNP0501");
    aml_io(a, 0x3f8, 8);
    aml_irq(a, 4);
    aml_end_resources(a);
    aml_name(a, "_UID");
    aml_integer(a, 1);
    aml_end(a);

    device_begin(a, "RTC_", "PNP0B00");
    aml_io(a, 0x70, 2);
    aml_irq(a, 8);
    device_end(a);

    device_begin(a, "KBD_", "PNP0303");
    aml_io(a, 0x60, 1);
    aml_io(a, 0x64, 1);
    aml_irq(a, 1);
    device_end(a);

    if (c->hpet != 0) {
        device_begin(a, "HPET", "PNP0103");
        aml_memory32(a, c->hpet, 0x400);
        device_end(a);
    }
    if (c->pvpanic_port != 0) {
        device_begin(a, "PEVT", "QEMU0001");
        aml_io(a, c->pvpanic_port, 1);
        device_end(a);
    }
}

static uint64_t place_dsdt(struct area *area, const struct acpi_config *c)
{
    uint8_t bytes[2048] __attribute__((aligned(8))) = {0};
    struct aml a;

    aml_init(&a, bytes + sizeof(struct header), sizeof(bytes) - sizeof(struct header));
    aml_name(&a, "\\_S5_");
    aml_begin_package(&a, 4);
    aml_integer(&a, c->s5_sleep_type);
    aml_integer(&a, c->s5_sleep_type);
    aml_integer(&a, 0);
    aml_integer(&a, 0);
    aml_end(&a);
    /* There is no power button: nothing would press it. */
    aml_begin_scope(&a, "\\_SB_");
    if (c->pci_config != 0)
        dsdt_pci(&a, c);
    dsdt_devices(&a, c);
    aml_end(&a);
    if (a.failed)
        area->full = true;
    return place_table(area, (struct header *)bytes, "DSDT", 2, sizeof(struct header) + a.size);
}

static struct address io_address(uint16_t port, uint8_t bytes, uint8_t access)
{
    return (struct address){SPACE_IO, (uint8_t)(8 * bytes), 0, access, port};
}

static uint64_t place_fadt(struct area *area, const struct acpi_config *c, uint64_t dsdt,
                           uint64_t facs)
{
    struct fadt f = {
        .firmware_ctrl = (uint32_t)facs, /* x_firmware_ctrl is then 0 (5.2.9) */
        .dsdt = (uint32_t)dsdt,
        .x_dsdt = dsdt,
        .preferred_pm_profile = FADT_PROFILE_ENTERPRISE_SERVER,
        .sci_int = c->sci,
        .smi_cmd = c->smi_command,
        .acpi_enable = c->acpi_enable,
        .acpi_disable = c->acpi_disable,
        .pm1a_evt_blk = c->pm1_event,
        .pm1a_cnt_blk = c->pm1_control,
        .pm_tmr_blk = c->pm_timer,
        .pm1_evt_len = 4,
        .pm1_cnt_len = 2,
        .pm_tmr_len = 4,
        .p_lvl2_lat = 0xfff, /* more than 100 and 1000 µs: no C2 and no C3 */
        .p_lvl3_lat = 0xfff,
        .century = RTC_CENTURY,
        .iapc_boot_arch = FADT_LEGACY_DEVICES | FADT_8042 | FADT_VGA_NOT_PRESENT,
        .flags = FADT_WBINVD | FADT_PROC_C1 | FADT_PWR_BUTTON | FADT_SLP_BUTTON | FADT_FIX_RTC |
                 FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP,
        .reset_reg = io_address(c->reset_port, 1, ACCESS_BYTE),
        .reset_value = c->reset_value,
        .x_pm1a_evt_blk = io_address(c->pm1_event, 4, ACCESS_WORD),
        .x_pm1a_cnt_blk = io_address(c->pm1_control, 2, ACCESS_WORD),
        .x_pm_tmr_blk = io_address(c->pm_timer, 4, ACCESS_DWORD),
    };
    if (c->gpe0 != 0) {
        f.gpe0_blk = c->gpe0;
        f.gpe0_blk_len = c->gpe0_length;
        f.x_gpe0_blk = io_address(c->gpe0, c->gpe0_length, ACCESS_BYTE);
    }
    memcpy(&f.hypervisor_vendor, "doppel\0\0", 8);
    uint64_t at = place_table(area, &f.h, "FACP", 6, sizeof(f));
    note_pointer(area, at, offsetof(struct fadt, firmware_ctrl), 4);
    note_pointer(area, at, offsetof(struct fadt, dsdt), 4);
    note_pointer(area, at, offsetof(struct fadt, x_dsdt), 8);
    return at;
}

/* One entry of the MADT: its type, its length, then `content`. */
static uint8_t *madt_entry(uint8_t *p, uint8_t type, const void *content, uint8_t n)
{
    p[0] = type;
    p[1] = (uint8_t)(n + 2);
    memcpy(p + 2, content, n);
    return p + 2 + n;
}

static uint8_t *madt_processor(uint8_t *p, uint32_t id)
{
    if (id < 255) {
        struct __attribute__((packed)) {
            uint8_t uid, apic_id;
            uint32_t flags;
        } lapic = {(uint8_t)id, (uint8_t)id, MADT_ENABLED};
        return madt_entry(p, MADT_LAPIC, &lapic, sizeof(lapic));
    }
    struct __attribute__((packed)) {
        uint16_t reserved;
        uint32_t apic_id, flags, uid;
    } x2apic = {0, id, MADT_ENABLED, id};
    return madt_entry(p, MADT_X2APIC, &x2apic, sizeof(x2apic));
}

static uint8_t *madt_override(uint8_t *p, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    struct __attribute__((packed)) {
        uint8_t bus, source;
        uint32_t gsi;
        uint16_t flags;
    } o = {0, irq, gsi, flags};
    return madt_entry(p, MADT_OVERRIDE, &o, sizeof(o));
}

static uint8_t *madt_interrupts(uint8_t *p, const struct acpi_config *c)
{
    struct __attribute__((packed)) {
        uint8_t id, reserved;
        uint32_t address, gsi_base;
    } ioapic = {c->ioapic_id, 0, c->ioapic, 0};
    struct __attribute__((packed)) {
        uint8_t uid; /* 0xff = every processor */
        uint16_t flags;
        uint8_t lint;
    } nmi = {0xff, 0, 1};
    struct __attribute__((packed)) {
        uint16_t flags;
        uint32_t uid;
        uint8_t lint, reserved[3];
    } x2nmi = {0, 0xffffffff, 1, {0}};

    p = madt_entry(p, MADT_IOAPIC, &ioapic, sizeof(ioapic));
    p = madt_override(p, 0, 2, 0); /* the PIT is wired to input 2 */
    p = madt_override(p, c->sci, c->sci, MADT_ACTIVE_HIGH_LEVEL);
    p = madt_entry(p, MADT_LAPIC_NMI, &nmi, sizeof(nmi));
    if (c->cpus > 255)
        p = madt_entry(p, MADT_X2APIC_NMI, &x2nmi, sizeof(x2nmi));
    return p;
}

static uint64_t place_madt(struct area *area, const struct acpi_config *c)
{
    struct __attribute__((packed)) {
        struct header h;
        uint32_t lapic, flags;
        uint8_t entries[ACPI_CPUS_MAX * 16 + 128];
    } *madt = calloc(1, sizeof(*madt));
    if (madt == NULL) {
        area->full = true;
        return 0;
    }
    madt->lapic = c->lapic;
    madt->flags = MADT_PCAT_COMPAT;
    uint8_t *p = madt->entries;
    for (uint32_t id = 0; id < c->cpus; id++)
        p = madt_processor(p, id);
    p = madt_interrupts(p, c);
    uint64_t at = place_table(area, &madt->h, "APIC", 5, (size_t)(p - (uint8_t *)madt));
    free(madt);
    return at;
}

static uint64_t place_hpet(struct area *area, const struct acpi_config *c)
{
    struct __attribute__((packed)) { /* IA-PC HPET specification 1.0a, 3.2.4 */
        struct header h;
        uint32_t id;
        struct address address;
        uint8_t number;
        uint16_t minimum_tick;
        uint8_t page_protection;
    } t = {.id = c->hpet_id, .address = {SPACE_MEMORY, 64, 0, ACCESS_ANY, c->hpet}};
    return place_table(area, &t.h, "HPET", 1, sizeof(t));
}

#define ROOT_ENTRIES 3

/* The two lists of tables: 64-bit addresses, and 32-bit ones for who knows ACPI 1.0 only. */
static uint64_t place_xsdt(struct area *area, const uint64_t *entries, unsigned n)
{
    struct __attribute__((packed)) {
        struct header h;
        uint64_t entries[ROOT_ENTRIES];
    } t = {.entries = {0}};
    for (unsigned i = 0; i < n; i++)
        t.entries[i] = entries[i];
    uint64_t at = place_table(area, &t.h, "XSDT", 1, sizeof(t.h) + n * sizeof(t.entries[0]));
    for (unsigned i = 0; i < n; i++)
        note_pointer(area, at, sizeof(t.h) + i * sizeof(t.entries[0]), 8);
    return at;
}

static uint64_t place_rsdt(struct area *area, const uint64_t *entries, unsigned n)
{
    struct __attribute__((packed)) {
        struct header h;
        uint32_t entries[ROOT_ENTRIES];
    } t = {.entries = {0}};
    for (unsigned i = 0; i < n; i++)
        t.entries[i] = (uint32_t)entries[i];
    uint64_t at = place_table(area, &t.h, "RSDT", 1, sizeof(t.h) + n * sizeof(t.entries[0]));
    for (unsigned i = 0; i < n; i++)
        note_pointer(area, at, sizeof(t.h) + i * sizeof(t.entries[0]), 4);
    return at;
}

static void place_all(struct area *area, const struct acpi_config *c)
{
    struct rsdp rsdp = {.signature = "RSD PTR ", .oem_id = "DOPPEL", .revision = 2};
    struct facs facs = {.signature = "FACS", .length = sizeof(facs), .version = 2};
    uint64_t entries[ROOT_ENTRIES];
    unsigned n = 0;

    area->image->size = sizeof(rsdp); /* it comes first, at the start of the image */
    uint64_t facs_at = place(area, &facs, sizeof(facs));
    uint64_t dsdt_at = place_dsdt(area, c);
    entries[n++] = place_fadt(area, c, dsdt_at, facs_at);
    entries[n++] = place_madt(area, c);
    if (c->hpet != 0)
        entries[n++] = place_hpet(area, c);
    rsdp.length = sizeof(rsdp);
    rsdp.rsdt = (uint32_t)place_rsdt(area, entries, n);
    rsdp.xsdt = place_xsdt(area, entries, n);
    rsdp.checksum = checksum(&rsdp, ACPI_RSDP_1_SIZE);
    rsdp.extended_checksum = checksum(&rsdp, sizeof(rsdp));
    memcpy(area->image->bytes, &rsdp, sizeof(rsdp));
}

struct acpi_image *acpi_image_create(const struct acpi_config *c, uint64_t base, struct error *e)
{
    if (c->cpus == 0 || c->cpus > ACPI_CPUS_MAX) {
        error_set(e, EINVAL, "ACPI tables for %u processors: give 1 to %u", c->cpus, ACPI_CPUS_MAX);
        return NULL;
    }
    struct acpi_image *image = calloc(1, sizeof(*image));
    if (image == NULL) {
        error_set(e, ENOMEM, "no memory for the ACPI tables");
        return NULL;
    }
    struct area area = {.image = image, .base = base};
    place_all(&area, c);
    if (area.full) {
        error_set(e, ENOMEM, "the ACPI tables do not fit in the BIOS area");
        free(image);
        return NULL;
    }
    return image;
}

int acpi_build(struct mem *m, const struct acpi_config *c, uint64_t *rsdp, struct error *e)
{
    struct error own = {0};
    e = e != NULL ? e : &own;
    struct acpi_image *image = acpi_image_create(c, MEMMAP_BIOS, e);
    if (image == NULL)
        return -e->code;
    int r = 0;
    if (mem_write(m, GPA(MEMMAP_BIOS), image->bytes, image->size) != 0)
        r = error_set(e, EFAULT, "the BIOS area at 0x%llx is not RAM", MEMMAP_BIOS);
    free(image);
    *rsdp = MEMMAP_BIOS;
    return r;
}
