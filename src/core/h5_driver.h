/*
 * h5_driver.h - a file driver for new HDF5 files that remembers a failed write instead of passing it on.
 *
 * HDF5 cannot close a file whose last writes fail: the handle stays behind half-freed, and the program crashes when it
 * exits. On a full disk this driver lets HDF5 believe that the rest was written; the file is then removed by whoever asked
 * for it, with the error that was remembered. Callers hold h5_lock. Must not know: any format.
 */
#ifndef COAR_CORE_H5_DRIVER_H
#define COAR_CORE_H5_DRIVER_H

#include <hdf5.h>

/* Makes files that are created with these access properties use the driver. Negative on failure, as HDF5's own. */
herr_t h5_driver_set(hid_t access);

/* errno of the first write that failed in an open file; 0: none. */
int h5_driver_error(hid_t file);

/* The same of the file that was closed last. */
int h5_driver_closed_error(void);

#endif
