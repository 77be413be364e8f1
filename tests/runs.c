/* runs.c - see runs.h. */
#include "runs.h"

#include "core/memory.h"
#include "test.h"

const char *const run_outputs[RUN_OUTPUTS] = {"margin", "loss"};

static int warnings;
static char last_warning[1024];

static void count_warning(void *user, coar_log_level level, const char *line) {
    (void)user;
    if (level != COAR_LOG_WARNING) return;
    warnings++;
    snprintf(last_warning, sizeof last_warning, "%s", line);
}

static const coar_callbacks callbacks = {.log = count_warning};

int run_warnings(const char **last) {
    int count = warnings;
    warnings = 0;
    if (last) *last = last_warning;
    return count;
}

/* Spread over the range of f16 without leaving it, and never the same for two places. */
float run_value(size_t output, uint64_t mask, uint64_t example) {
    return (float)((double)mask * 1.25 - (double)example / 64 + (output ? -1000 : 0));
}

coar_status run_create(const char *path, const char *alpha, bool force, bool *created, run_store **out) {
    const setting settings[] = {{"created", "", "now", SETTING_TEXT, false},
                                {"seed", "--seed", "18446744073709551615", SETTING_INTEGER, true},
                                {"alpha", "--alpha", alpha, SETTING_REAL, true},
                                {"sampler", "--sampler", "bernoulli", SETTING_TEXT, true}};
    return store_create(path, settings, sizeof settings / sizeof *settings, force, created, out);
}

void run_tables_fill(run_tables *t) {
    *t = (run_tables){
        .group_count = 2, .components = RUN_COMPONENTS, .examples = RUN_EXAMPLES, .output_count = RUN_OUTPUTS};
    CHECK_OK(memory_new(2, sizeof *t->groups, "groups", &t->groups));
    t->groups[0] = (store_group){"layer1.conv", "filter", "layer1", 0, 8};
    t->groups[1] = (store_group){"layer2.conv", "filter", "layer2", 8, RUN_COMPONENTS - 8};
    CHECK_OK(memory_new(RUN_EXAMPLES, sizeof *t->example_rows, "rows", &t->example_rows));
    CHECK_OK(memory_new(RUN_EXAMPLES, sizeof *t->labels, "labels", &t->labels));
    CHECK_OK(memory_new(RUN_EXAMPLES, sizeof *t->subgroups, "groups", &t->subgroups));
    CHECK_OK(memory_new(RUN_OUTPUTS, sizeof *t->output_names, "outputs", &t->output_names));
    CHECK_OK(memory_new(RUN_OUTPUTS * RUN_EXAMPLES, sizeof *t->baseline, "baseline", &t->baseline));
    CHECK_OK(memory_new(5, sizeof *t->fill, "fill", &t->fill));
    t->fill_count = 5;
    for (int o = 0; o < RUN_OUTPUTS; o++) snprintf(t->output_names[o], sizeof t->output_names[o], "%s", run_outputs[o]);
    for (int i = 0; i < RUN_EXAMPLES; i++) {
        t->example_rows[i] = (uint64_t)i * 3 + 1;
        t->labels[i] = i % 10;
        t->subgroups[i] = i % 2;
        for (int o = 0; o < RUN_OUTPUTS; o++) t->baseline[o * RUN_EXAMPLES + i] = (float)(i + 100 * o);
    }
    for (int i = 0; i < 5; i++) t->fill[i] = (float)i / 8;
}

run_store *run_new(const char *path) {
    run_store *store = NULL;
    run_tables tables;
    bool created = false;
    CHECK_OK(run_create(path, "0.1", false, &created, &store));
    CHECK(created);
    run_tables_fill(&tables);
    CHECK_OK(store_write_tables(store, &tables));
    run_tables_free(&tables);
    return store;
}

unit_grid run_grid(uint64_t first_mask, uint64_t masks) {
    return (unit_grid){.first_mask = first_mask,
                       .masks = masks,
                       .examples = RUN_EXAMPLES,
                       .unit_masks = RUN_UNIT_MASKS,
                       .unit_examples = RUN_UNIT_EXAMPLES,
                       .outputs = RUN_OUTPUTS};
}

coar_status run_named_stage(run_store *store, const char *name, const unit_grid *grid, uint32_t shard, uint32_t shards,
                            bool force_resume, store_stage **out) {
    const setting settings[] = {{"plan_hash", "--plan", "abc", SETTING_TEXT, true}};
    const stage_options options = {.name = name,
                                   .settings = settings,
                                   .setting_count = 1,
                                   .plan_json = "{\"plan\":1}",
                                   .units = unit_grid_units(grid),
                                   .payload_bytes = unit_grid_payload,
                                   .context = grid,
                                   .shard = shard,
                                   .shards = shards,
                                   .masks = grid->masks,
                                   .force_resume = force_resume,
                                   .callbacks = &callbacks};
    return stage_open(store, &options, out);
}

coar_status run_open_stage(run_store *store, const unit_grid *grid, uint32_t shard, uint32_t shards, bool force_resume,
                           store_stage **out) {
    char name[64];
    snprintf(name, sizeof name, "ablate-%llu", (unsigned long long)grid->first_mask);
    return run_named_stage(store, name, grid, shard, shards, force_resume, out);
}

coar_status run_unit(store_stage *stage, const unit_grid *grid, uint64_t unit) {
    static float payload[RUN_OUTPUTS * RUN_UNIT_MASKS * RUN_UNIT_EXAMPLES];
    uint64_t mask, example;
    uint32_t masks, examples;
    float *next = payload;
    unit_grid_unit(grid, unit, &mask, &masks, &example, &examples);
    for (size_t o = 0; o < RUN_OUTPUTS; o++)
        for (uint32_t i = 0; i < masks; i++)
            for (uint32_t z = 0; z < examples; z++) *next++ = run_value(o, mask + i, example + z);
    return stage_append(stage, unit, (unit_mark){.flag = UNIT_DONE}, payload, unit_grid_payload(grid, unit));
}

coar_status run_units(store_stage *stage, const unit_grid *grid, uint64_t seed) {
    const uint64_t units = unit_grid_units(grid);
    /* i -> a i + b modulo a prime above the number of units visits each once */
    const uint64_t prime = 10007, a = seed * 2654435761u % (prime - 1) + 1;
    for (uint64_t i = 0; i < prime; i++) {
        uint64_t unit = (a * i + seed) % prime;
        if (unit < units && !stage_has(stage, unit)) TRY(run_unit(stage, grid, unit));
    }
    return COAR_OK;
}

coar_status run_ablate(run_store *store, uint64_t first_mask, uint64_t masks, uint64_t seed) {
    const unit_grid grid = run_grid(first_mask, masks);
    store_stage *stage = NULL;
    TRY(run_open_stage(store, &grid, 0, 1, false, &stage));
    coar_status status = run_units(stage, &grid, seed);
    if (status == COAR_OK) status = store_finish_outputs(store, stage, &grid, false, NULL);
    stage_close(stage);
    return status;
}

uint64_t run_wrong_outputs(run_store *store, uint64_t masks) {
    uint64_t wrong = 0;
    float *values = malloc(masks * RUN_EXAMPLES * sizeof *values);
    for (size_t o = 0; o < RUN_OUTPUTS && values; o++) {
        CHECK_OK(store_read_outputs(store, run_outputs[o], 0, masks, 0, RUN_EXAMPLES, values));
        for (uint64_t i = 0; i < masks * RUN_EXAMPLES; i++)
            wrong += values[i] != run_value(o, i / RUN_EXAMPLES, i % RUN_EXAMPLES);
    }
    free(values);
    return wrong;
}

void run_write_text(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0);
    if (f) fclose(f);
}

const char *run_file(const char *path, const char *name) {
    static char buffers[2][700];
    static int next;
    char *buffer = buffers[next++ & 1];
    snprintf(buffer, sizeof buffers[0], "%s.parts/%s", path, name);
    return buffer;
}

const char *run_path(char buffer[512], const char *name) {
    snprintf(buffer, 512, "%s", test_temporary(name));
    return buffer;
}

void run_fit(run_store *store, const char *name, float scale, bool force) {
    const fit_header header = {.name = name,
                               .estimator = "ridge",
                               .output = "margin",
                               .examples = RUN_EXAMPLES,
                               .components = RUN_COMPONENTS,
                               .masks = 40,
                               .standard_errors = true,
                               .command = "test"};
    float weight[RUN_EXAMPLES * RUN_COMPONENTS], bias[RUN_EXAMPLES];
    double numbers[RUN_EXAMPLES];
    for (int i = 0; i < RUN_EXAMPLES * RUN_COMPONENTS; i++) weight[i] = scale * (float)i;
    for (int i = 0; i < RUN_EXAMPLES; i++) numbers[i] = bias[i] = scale + (float)i;
    fit_writer *writer = NULL;
    CHECK_OK(fit_writer_create(store, NULL, &header, force, &writer));
    if (!writer) return;
    for (uint64_t first = 0; first < RUN_EXAMPLES; first += 10) {
        const fit_block block = {first,
                                 RUN_EXAMPLES - first < 10 ? RUN_EXAMPLES - first : 10,
                                 weight + first * RUN_COMPONENTS,
                                 bias + first,
                                 numbers + first,
                                 numbers + first,
                                 numbers + first,
                                 weight + first * RUN_COMPONENTS};
        CHECK_OK(fit_writer_block(writer, &block));
    }
    CHECK_OK(fit_writer_finish(writer));
    fit_writer_destroy(writer);
}

coar_status run_merge(const char *run, const char *output, int force, const coar_callbacks *given) {
    coar_merge_options o = COAR_MERGE_INIT;
    o.runs = &run;
    o.run_count = 1;
    o.output = output;
    o.force = force;
    o.callbacks = given;
    return coar_merge(&o, NULL);
}
