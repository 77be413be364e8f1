/* h5_driver.c - see h5_driver.h. */
#include "core/h5_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

typedef struct driver_file {
    H5FD_t base; /* HDF5's own part comes first */
    int file;
    int error;   /* errno of the first failed write */
    haddr_t eoa; /* end of what HDF5 has allocated */
    haddr_t eof; /* end of what was written */
    dev_t device;
    ino_t inode;
} driver_file;

static int closed_error;

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t access, haddr_t most) {
    (void)access;
    (void)most;
    struct stat information;
    int mode = flags & H5F_ACC_RDWR ? O_RDWR : O_RDONLY;
    if (flags & H5F_ACC_TRUNC) mode |= O_TRUNC;
    if (flags & H5F_ACC_CREAT) mode |= O_CREAT;
    if (flags & H5F_ACC_EXCL) mode |= O_EXCL;
    driver_file *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->file = open(name, mode | O_CLOEXEC, 0666);
    if (f->file < 0 || fstat(f->file, &information)) {
        if (f->file >= 0) close(f->file);
        free(f);
        return NULL;
    }
    f->eof = (haddr_t)information.st_size;
    f->device = information.st_dev;
    f->inode = information.st_ino;
    return &f->base;
}

static herr_t driver_close(H5FD_t *base) {
    driver_file *f = (driver_file *)base;
    if (close(f->file) && !f->error) f->error = errno;
    closed_error = f->error;
    free(f);
    return 0;
}

static int driver_compare(const H5FD_t *a, const H5FD_t *b) {
    const driver_file *x = (const driver_file *)a, *y = (const driver_file *)b;
    if (x->device != y->device) return x->device < y->device ? -1 : 1;
    return x->inode < y->inode ? -1 : x->inode > y->inode;
}

static herr_t driver_query(const H5FD_t *base, unsigned long *flags) {
    (void)base;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t driver_get_eoa(const H5FD_t *base, H5FD_mem_t type) {
    (void)type;
    return ((const driver_file *)base)->eoa;
}

static herr_t driver_set_eoa(H5FD_t *base, H5FD_mem_t type, haddr_t address) {
    (void)type;
    ((driver_file *)base)->eoa = address;
    return 0;
}

static haddr_t driver_get_eof(const H5FD_t *base, H5FD_mem_t type) {
    (void)type;
    return ((const driver_file *)base)->eof;
}

static herr_t driver_get_handle(H5FD_t *base, hid_t access, void **handle) {
    (void)access;
    *handle = &((driver_file *)base)->error;
    return 0;
}

/* Beyond the end, and where nothing was written, a file reads as zeros. */
static herr_t driver_read(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size, void *buffer) {
    (void)type;
    (void)transfer;
    const driver_file *f = (const driver_file *)base;
    char *next = buffer;
    while (size) {
        ssize_t got = pread(f->file, next, size, (off_t)address);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) {
            memset(next, 0, size);
            break;
        }
        next += got;
        address += (haddr_t)got;
        size -= (size_t)got;
    }
    return 0;
}

static herr_t driver_write(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size,
                           const void *buffer) {
    (void)type;
    (void)transfer;
    driver_file *f = (driver_file *)base;
    const char *next = buffer;
    if (address + size > f->eof) f->eof = address + size;
    while (size && !f->error) {
        ssize_t written = pwrite(f->file, next, size, (off_t)address);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) {
            f->error = errno;
            break;
        }
        next += written;
        address += (haddr_t)written;
        size -= (size_t)written;
    }
    return 0;
}

static herr_t driver_truncate(H5FD_t *base, hid_t transfer, hbool_t closing) {
    (void)transfer;
    (void)closing;
    driver_file *f = (driver_file *)base;
    if (f->eoa == f->eof) return 0;
    if (!f->error && ftruncate(f->file, (off_t)f->eoa)) f->error = errno;
    f->eof = f->eoa;
    return 0;
}

static const H5FD_class_t driver_class = {
#if H5_VERSION_GE(1, 13, 0)
    .version = H5FD_CLASS_VERSION,
    .value = 600, /* between 512 and 1,023: not registered with anybody, never stored in a file */
#endif
    .name = "coar",
    .maxaddr = ((haddr_t)1 << (8 * sizeof(off_t) - 1)) - 1,
    .fc_degree = H5F_CLOSE_WEAK,
    .open = driver_open,
    .close = driver_close,
    .cmp = driver_compare,
    .query = driver_query,
    .get_eoa = driver_get_eoa,
    .set_eoa = driver_set_eoa,
    .get_eof = driver_get_eof,
    .get_handle = driver_get_handle,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

herr_t h5_driver_set(hid_t access) {
    static hid_t driver = H5I_INVALID_HID;
    if (driver < 0 || H5Iget_type(driver) != H5I_VFL) driver = H5FDregister(&driver_class); /* H5close forgets it */
    return driver < 0 ? -1 : H5Pset_driver(access, driver, NULL);
}

int h5_driver_error(hid_t file) {
    void *error = NULL;
    return H5Fget_vfd_handle(file, H5P_DEFAULT, &error) < 0 || !error ? 0 : *(int *)error;
}

int h5_driver_closed_error(void) {
    return closed_error;
}
