/*
 * number.h - numbers as text, the same in every locale: a host program may have set one with decimal commas.
 *
 * Everything that is read from or written to options, files and names goes through here; strtod, and printf's %g into a
 * file, do not.
 * Must not know: what the numbers mean.
 */
#ifndef COAR_CORE_NUMBER_H
#define COAR_CORE_NUMBER_H

#include <locale.h>

/* The "C" locale, for uselocale around longer texts. Never freed. */
locale_t number_locale(void);

/* strtod with a decimal point. */
double number_parse(const char *text, char **end);

#define NUMBER_SIZE 32

/* The shortest of %.6g to %.17g that reads back as the same value. */
void number_format(double value, char text[NUMBER_SIZE]);

#endif
