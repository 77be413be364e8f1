/* report.c - coar_report: one self-contained HTML page about a run. */
#include <stdio.h>
#include <string.h>

#include "core/files.h"
#include "core/number.h"
#include "core/options.h"
#include "report/gather.h"
#include "report/page.h"

/* A page begins with its generator. What cannot be read is not taken for one. */
static bool is_own_page(const char *path) {
    char begin[1024];
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    const size_t size = fread(begin, 1, sizeof begin - 1, file);
    fclose(file);
    begin[size] = '\0';
    return strstr(begin, PAGE_GENERATOR) != NULL;
}

static coar_status check_output(const coar_report_options *o) {
    return file_check_output(o->output, o->force || (o->replace_own && is_own_page(o->output)));
}

static coar_status write_report(const coar_report_options *o) {
    coar_status status;
    report_source source = {0};
    report_data data = {0};
    html page = {0};
    TRY_GOTO(check_output(o));
    if (o->check_only) goto done;
    TRY_GOTO(file_check_distinct(o->output, o->run));
    TRY_GOTO(report_source_open(o->run, o->data, o->fit, &source));
    TRY_GOTO(file_check_distinct(o->output, source.data->path));
    TRY_GOTO(report_gather(&source, o->callbacks, &data));
    TRY_GOTO(report_render(&data, &page));
    TRY_GOTO(file_write(o->output, page.text, page.used));
done:
    html_free(&page);
    report_data_free(&data);
    report_source_close(&source);
    return status;
}

coar_status coar_report(const coar_report_options *options) {
    status_clear();
    coar_report_options taken;
    TRY(options_take(&taken, sizeof taken, options, "COAR_REPORT_INIT"));
    if (!taken.run) return status_set(COAR_ERROR_USAGE, "report: name the run file (run.h5)");
    if (!taken.output) return status_set(COAR_ERROR_USAGE, "-o: name the page to write (report.html)");
    locale_t callers = uselocale(number_locale()); /* decimal points are points, whatever the calling program has set */
    coar_status status = write_report(&taken);
    uselocale(callers);
    return status;
}
