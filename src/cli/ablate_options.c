/* ablate_options.c - see ablate_options.h. */
#include "cli/ablate_options.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool ablate_options_finish(const cli_command *command, coar_ablate_options *o, const ablate_texts *texts) {
    if (texts->store && strcmp(texts->store, "f32") && strcmp(texts->store, "f16")) {
        cli_usage_error(command, "--store: '%s' is neither f32 nor f16", texts->store);
        return false;
    }
    o->store_f16 = texts->store && !strcmp(texts->store, "f16");
    o->command = cli_command_line();
    o->callbacks = cli_callbacks();
    return true;
}

int ablate_follow(const coar_ablate_options *o) {
    coar_follow_options follow = COAR_FOLLOW_INIT;
    follow.model = o->model;
    follow.data = o->data;
    follow.classes = o->classes;
    follow.devices = o->devices;
    follow.shard = o->shard;
    follow.threads = o->threads;
    follow.memory = o->memory;
    return cli_follow(follow);
}

/* What this process did of the stage, for its log. */
static void print_work(const char *shard, uint64_t units, uint64_t total, uint64_t images, double seconds) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    printf("%llu of %llu units, %llu images in %.1f s", (unsigned long long)units, (unsigned long long)total,
           (unsigned long long)images, seconds);
    if (seconds > 0) printf(", %.0f images/s", (double)images / seconds);
    printf(" (%s, pid %ld%s%s)\n", host, (long)getpid(), shard ? ", shard " : "", shard ? shard : "");
}

void ablate_print(const coar_ablate_options *o, const coar_ablate_result *r) {
    if (r->already_complete) {
        printf("%s: nothing to do: %llu masks of %llu examples are there\n", o->output, (unsigned long long)r->masks,
               (unsigned long long)r->examples);
        return;
    }
    printf("%s: %llu masks x %llu examples, %llu components; ", o->output, (unsigned long long)r->masks,
           (unsigned long long)r->examples, (unsigned long long)r->components);
    print_work(o->shard, r->units, r->units_total, r->images, r->seconds);
}

void gradients_print(const coar_gradients_options *o, const coar_gradients_result *r) {
    if (r->already_complete) {
        printf("%s: nothing to do: gradients of %u passes of %llu examples are there\n", o->ablate.output, r->passes,
               (unsigned long long)r->examples);
        return;
    }
    printf("%s: gradients of %u passes x %llu examples, %llu components; ", o->ablate.output, r->passes,
           (unsigned long long)r->examples, (unsigned long long)r->components);
    print_work(o->ablate.shard, r->units, r->units_total, r->images, r->seconds);
}
