/*
 * cuda_race.h - one layer's choice: its candidates against each other (cuda_choose.h has the rules), or one form alone.
 *
 * Must not know: other layers, the cache of answers.
 */
#ifndef COAR_BACKEND_CUDA_RACE_H
#define COAR_BACKEND_CUDA_RACE_H

#include "backend/cuda/cuda_choose.h"

/* What the races of one device share. It points into itself: it stays where it was opened. */
typedef struct cuda_track {
    const cuda_choose_settings *settings; /* borrowed */
    cuda_handles *handles;
    cudaStream_t stream;
    cudaEvent_t start, stop;
    cuda_timer events; /* by start and stop */
    const cuda_timer *timer;
    int multiprocessors;
} cuda_track;

/* Close it also after a failure. */
coar_status cuda_track_open(const cuda_choose_settings *s, cuda_track *t);
void cuda_track_close(cuda_track *t);

/* Fills the layer's answer; its form is kept in the process. COAR_ERROR_MEMORY when the trial does not fit,
 * COAR_ERROR_UNSUPPORTED when no candidate holds. */
coar_status cuda_race_run(const cuda_track *track, cuda_choice *layer);

/* The milliseconds of the layer's form and splits, which are given. COAR_ERROR_UNSUPPORTED when the form cannot be
 * made, does not agree or cannot be captured. */
coar_status cuda_race_time(const cuda_track *track, cuda_choice *layer);

#endif
