/*
 * reopen.h - the job of an existing run opened again, for passes that are added to it later.
 * Must not know: what the passes are for.
 */
#ifndef COAR_ABLATE_REOPEN_H
#define COAR_ABLATE_REOPEN_H

#include "ablate/job.h"
#include "store/store.h"

/* What is computed later is stored with the run and used again, so it comes from the run's own backend: of another one
 * nobody could tell. COAR_ERROR_MISMATCH when the options name another. */
coar_status reopen_check(run_store *store, const coar_evaluate_options *options);

/* Opens the job that the run was made with: its files (where the options say, else where the run does), examples and
 * labels, with the numerics plan given as JSON, NULL for a fresh one in fp32. COAR_ERROR_MISMATCH when model or data
 * are not those of the run. The means of `mean` ablation move from `tables` into the job; `tables` must live as long
 * as it. */
coar_status reopen_job(run_store *store, const coar_evaluate_options *options, const char *plan, run_tables *tables,
                       job **out);

#endif
