/* options.c - see options.h. */
#include "core/options.h"

#include <string.h>

coar_status options_take(void *copy, size_t copy_size, const void *options, const char *initialiser) {
    size_t size = 0;
    if (options) memcpy(&size, options, sizeof size);
    if (size <= sizeof size) return status_set(COAR_ERROR_USAGE, "options are not initialised; use %s", initialiser);
    memset(copy, 0, copy_size);
    memcpy(copy, options, size < copy_size ? size : copy_size);
    return COAR_OK;
}
