/* pack_texts.h - the part of coar_pack that makes a data set of texts. Must not know: images. */
#ifndef COAR_DATA_PACK_TEXTS_H
#define COAR_DATA_PACK_TEXTS_H

#include "core/status.h"

/* coar_pack with `from` "tokens"; the options are complete (options_take) and their output can be written. */
coar_status pack_texts(const coar_pack_options *o, coar_pack_result *result);

#endif
