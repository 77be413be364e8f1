/*
 * greedy.h - a choice of components that bounds what the whole set is predicted to do to the reference (greedy.c).
 */
#ifndef COAR_EDIT_GREEDY_H
#define COAR_EDIT_GREEDY_H

#include "edit/method.h"

/* edit_method.choose. scores[n]: gain - C harm of each component alone, largest first; an order follows them in its first
 * component only. The order of k components is the beginning of that of more. n x references multiplications a component. */
coar_status edit_choose_greedy(const edit_problem *p, double *scores, uint32_t *order, uint32_t *count);

#endif
