/* statistics.c - see statistics.h. */
#include "core/statistics.h"

#include <math.h>

int double_ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    if (isnan(x) || isnan(y)) return isnan(x) - isnan(y);
    return (x > y) - (x < y);
}

double sorted_quantile(const double *sorted, size_t count, double q) {
    double at = q * (double)(count - 1);
    size_t low = (size_t)at, high = low + 1 < count ? low + 1 : low;
    return sorted[low] + (at - (double)low) * (sorted[high] - sorted[low]);
}

double mean_of_defined(const double *values, size_t count, uint64_t *defined) {
    double sum = 0;
    uint64_t found = 0;
    for (size_t i = 0; i < count; i++)
        if (isfinite(values[i])) sum += values[i], found++;
    if (defined) *defined = found;
    return found ? sum / (double)found : NAN;
}
