/*
 * cuda_text.h - the texts that name a form, whoever computes it, and how they are read.
 *
 *   "128x128x32 s4 w8"             our own kernel of that name (gpu_conv_form)
 *   "cudnn:conv,engine=12,..."     an engine of cuDNN        (cuda_cudnn.h)
 *   "cublaslt:id=66,tile=20,..."   an algorithm of cuBLASLt  (cuda_cublaslt.h)
 *
 * Must not know: the libraries.
 */
#ifndef COAR_BACKEND_CUDA_TEXT_H
#define COAR_BACKEND_CUDA_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CUDA_FORM_SIZE 256   /* a form's text with its final zero */
#define CUDA_VERSION_SIZE 24 /* a library's version, "9.19.0" */

/* What a library may take for itself in one launch: one buffer of the largest layer's size serves all of them. */
#define CUDA_LIBRARY_WORKSPACE ((size_t)64 << 20)

/* Small readers for forms: true when *text begins with `word`, or with an integer; *text then stands behind it. */
bool cuda_text_skip(const char **text, const char *word);
bool cuda_text_integer(const char **text, int64_t *out);

/* "MAJOR.MINOR.PATCH" of a number that holds them as decimal fields (91900 -> 9.19.0). */
void cuda_text_version(size_t number, char text[CUDA_VERSION_SIZE]);

#endif
