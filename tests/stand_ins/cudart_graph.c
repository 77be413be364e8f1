/*
 * cudart_graph.c - stream capture and graphs. A captured operation becomes a node with its arguments by value and the
 * nodes that come before it; a launch puts copies of all nodes into a stream, in an order that the nodes' dependencies
 * allow.
 *
 * Must not know: what operations do, how work is ordered outside of graphs.
 */
#include "device.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct node {
    operation *work;
    frontier after;
} node;

/* A captured graph, and an executable one, which is a copy. */
typedef struct body {
    size_t count;
    node *node;
} body;

struct CUgraph_st {
    struct CUgraph_st *next;
    bool alive;
    int device;
    body body;
};

struct CUgraphExec_st {
    struct CUgraphExec_st *next;
    bool alive;
    int device;
    body body;
    position last; /* launches of one executable graph never overlap */
};

struct capture {
    struct capture *next; /* kept when it has ended: events that were recorded in it refer to it */
    struct CUgraph_st *graph;
    struct CUstream_st *origin; /* NULL when it has ended */
    enum cudaStreamCaptureMode mode;
    pthread_t thread;
    bool invalid;
};

static capture *all_captures;
static struct CUgraph_st *all_graphs;
static struct CUgraphExec_st *all_executables;

static void *allocate(size_t size) {
    void *p = calloc(1, size);
    if (!p) misuse("a graph", "out of host memory");
    return p;
}

static void add_to_frontier(frontier *f, size_t node) {
    for (size_t i = 0; i < f->count; i++)
        if (f->node[i] == node) return;
    if (f->count == sizeof f->node / sizeof *f->node)
        misuse("a graph", "the stand-in joins at most %zu streams", f->count);
    f->node[f->count++] = node;
}

static void join_frontier(frontier *f, const frontier *other) {
    for (size_t i = 0; i < other->count; i++) add_to_frontier(f, other->node[i]);
}

/* -------------------------------------------------------------------------------------------------- capture */

static cudaError_t invalidate(const char *call, capture *c, cudaError_t error) {
    refuse(call, "%s; the capture is invalid now", cudaGetErrorString(error));
    c->invalid = true;
    return error;
}

cudaError_t capture_forbids(const char *call) {
    for (struct CUstream_st *s = all_streams; s; s = s->next) {
        capture *c = s->capture;
        if (!c || c->origin != s || c->mode == cudaStreamCaptureModeRelaxed) continue;
        if (c->mode == cudaStreamCaptureModeGlobal || pthread_equal(c->thread, pthread_self()))
            return invalidate(call, c, cudaErrorStreamCaptureUnsupported);
    }
    return cudaSuccess;
}

cudaError_t capture_forbids_stream(const char *call, struct CUstream_st *stream) {
    if (stream->capture) return invalidate(call, stream->capture, cudaErrorStreamCaptureUnsupported);
    return capture_forbids(call);
}

cudaError_t capture_append(struct CUstream_st *stream, operation *o) {
    capture *c = stream->capture;
    if (c->invalid) {
        operation_destroy(o);
        return cudaErrorStreamCaptureInvalidated;
    }
    body *b = &c->graph->body;
    node *nodes = realloc(b->node, (b->count + 1) * sizeof *nodes);
    if (!nodes) misuse(o->name, "out of host memory");
    b->node = nodes;
    b->node[b->count] = (node){o, stream->newest};
    stream->newest = (frontier){.count = 1, .node = {b->count}};
    b->count++;
    return cudaSuccess;
}

cudaError_t capture_record(struct CUstream_st *stream, struct CUevent_st *event) {
    if (stream->capture->invalid) return cudaErrorStreamCaptureInvalidated;
    event->capture = stream->capture;
    event->newest = stream->newest;
    event->recorded = (position){NULL, 0};
    return cudaSuccess;
}

cudaError_t capture_wait(struct CUstream_st *stream, struct CUevent_st *event) {
    const char *call = "cudaStreamWaitEvent";
    if (event->capture && !event->capture->origin) { /* that capture has ended */
        refuse(call, "the event was last recorded in a capture");
        return cudaErrorCapturedEvent;
    }
    if (!event->capture) return invalidate(call, stream->capture, cudaErrorStreamCaptureIsolation);
    if (event->capture->invalid) return cudaErrorStreamCaptureInvalidated;
    if (stream->capture && stream->capture != event->capture)
        return invalidate(call, stream->capture, cudaErrorStreamCaptureMerge);
    if (!stream->capture) stream->newest = (frontier){0};
    stream->capture = event->capture;
    join_frontier(&stream->newest, &event->newest);
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    cudaError_t error = enter(__func__);
    struct CUstream_st *s = stream_find(__func__, stream);
    if (error == cudaSuccess && s == the_machine.device[s->device].null_stream) {
        refuse(__func__, "the default stream cannot be captured");
        error = cudaErrorStreamCaptureUnsupported;
    }
    if (error == cudaSuccess && s->capture) {
        refuse(__func__, "the stream is being captured already");
        error = cudaErrorIllegalState;
    }
    if (error != cudaSuccess) return leave(error);
    struct CUgraph_st *g = allocate(sizeof *g);
    *g = (struct CUgraph_st){.next = all_graphs, .device = s->device};
    all_graphs = g;
    s->capture = allocate(sizeof *s->capture);
    *s->capture = (capture){.next = all_captures, .graph = g, .origin = s, .mode = mode, .thread = pthread_self()};
    all_captures = s->capture;
    s->newest = (frontier){0};
    return leave(cudaSuccess);
}

/* Whether every node comes before the end of the origin stream. */
static bool is_joined(const body *b, const frontier *end) {
    bool *reached = allocate(b->count + 1);
    for (size_t i = 0; i < end->count; i++) reached[end->node[i]] = true;
    bool joined = true;
    for (size_t i = b->count; i-- > 0;) { /* nodes come after those that they wait for */
        joined = joined && reached[i];
        for (size_t k = 0; reached[i] && k < b->node[i].after.count; k++) reached[b->node[i].after.node[k]] = true;
    }
    free(reached);
    return joined;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    cudaError_t error = enter(__func__);
    struct CUstream_st *s = stream_find(__func__, stream);
    capture *c = s->capture;
    *graph = NULL;
    if (!c || c->origin != s) {
        refuse(__func__, "no capture began in this stream");
        return leave(error != cudaSuccess ? error : c ? cudaErrorStreamCaptureUnmatched : cudaErrorIllegalState);
    }
    if (c->mode != cudaStreamCaptureModeRelaxed && !pthread_equal(c->thread, pthread_self())) {
        refuse(__func__, "the capture began in another thread");
        return leave(cudaErrorStreamCaptureWrongThread);
    }
    if (error == cudaSuccess && c->invalid) error = cudaErrorStreamCaptureInvalidated;
    if (error == cudaSuccess && !is_joined(&c->graph->body, &s->newest)) {
        refuse(__func__, "work of another stream was captured and nothing waits for it");
        error = cudaErrorStreamCaptureUnjoined;
    }
    c->graph->alive = error == cudaSuccess;
    if (error == cudaSuccess) *graph = c->graph;
    for (struct CUstream_st *other = all_streams; other; other = other->next)
        if (other->capture == c) other->capture = NULL;
    c->origin = NULL;
    return leave(error);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    cudaError_t error = enter(__func__);
    struct CUstream_st *s = stream_find(__func__, stream);
    *status = !s->capture           ? cudaStreamCaptureStatusNone
              : s->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                    : cudaStreamCaptureStatusActive;
    return leave(error);
}

/* --------------------------------------------------------------------------------------------------- graphs */

static body copy_body(const body *b) {
    body copy = {.count = b->count, .node = allocate((b->count + 1) * sizeof *b->node)};
    for (size_t i = 0; i < b->count; i++) copy.node[i] = (node){operation_clone(b->node[i].work), b->node[i].after};
    return copy;
}

static void free_body(body *b) {
    for (size_t i = 0; i < b->count; i++) operation_destroy(b->node[i].work);
    free(b->node);
    *b = (body){0};
}

static struct CUgraph_st *find_graph(const char *call, cudaGraph_t graph) {
    struct CUgraph_st *g = all_graphs;
    while (g && g != graph) g = g->next;
    if (!g) misuse(call, "%p is no graph", (void *)graph);
    if (!g->alive) misuse(call, "the graph was destroyed");
    return g;
}

static struct CUgraphExec_st *find_executable(const char *call, cudaGraphExec_t executable) {
    struct CUgraphExec_st *x = all_executables;
    while (x && x != executable) x = x->next;
    if (!x) misuse(call, "%p is no executable graph", (void *)executable);
    if (!x->alive) misuse(call, "the executable graph was destroyed");
    return x;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
    cudaError_t error = enter(__func__);
    const struct CUgraph_st *g = find_graph(__func__, graph);
    *executable = NULL;
    if (error == cudaSuccess && flags) {
        refuse(__func__, "unknown flags %#llx", flags);
        error = cudaErrorInvalidValue;
    }
    if (error != cudaSuccess) return leave(error);
    struct CUgraphExec_st *x = allocate(sizeof *x);
    *x = (struct CUgraphExec_st){
        .next = all_executables, .alive = true, .device = g->device, .body = copy_body(&g->body)};
    *executable = all_executables = x;
    return leave(cudaSuccess);
}

/* The next node of a launch: one that is not placed and whose predecessors are. The newest such node first, so that a
 * branch that does not wait for another overtakes it; random with ORDER_RANDOM; as captured with ORDER_EAGER. */
static size_t choose_node(const body *b, const bool *placed) {
    size_t chosen = b->count;
    unsigned found = 0;
    for (size_t i = 0; i < b->count; i++) {
        const frontier *after = &b->node[i].after;
        bool free_to_go = !placed[i];
        for (size_t k = 0; k < after->count; k++) free_to_go = free_to_go && placed[after->node[k]];
        if (!free_to_go) continue;
        found++;
        bool first = the_machine.order == ORDER_EAGER && found > 1;
        if (the_machine.order == ORDER_RANDOM ? random_below(found) == 0 : !first) chosen = i;
    }
    return chosen;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    cudaError_t error = enter(__func__);
    struct CUstream_st *s = stream_find(__func__, stream);
    struct CUgraphExec_st *x = find_executable(__func__, executable);
    if (error == cudaSuccess && x->device != s->device) {
        refuse(__func__, "the graph was captured on device %d, the stream is on device %d", x->device, s->device);
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess && s->capture) {
        refuse(__func__, "the stand-in does not capture graphs in graphs");
        error = cudaErrorNotSupported;
    }
    if (error != cudaSuccess) return leave(error);
    bool *placed = allocate(x->body.count + 1);
    for (size_t n = 0; n < x->body.count && error == cudaSuccess; n++) {
        size_t i = choose_node(&x->body, placed);
        placed[i] = true;
        operation *o = operation_clone(x->body.node[i].work);
        operation_depend(o, x->last);
        error = enqueue_operation(s, o);
    }
    free(placed);
    x->last = stream_end(s);
    return leave(error);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    cudaError_t error = enter(__func__);
    struct CUgraph_st *g = find_graph(__func__, graph);
    g->alive = false;
    free_body(&g->body);
    return leave(error);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    cudaError_t error = enter(__func__);
    struct CUgraphExec_st *x = find_executable(__func__, executable);
    x->alive = false;
    free_body(&x->body);
    return leave(error);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    cudaError_t error = enter(__func__);
    const struct CUgraph_st *g = find_graph(__func__, graph);
    if (nodes) misuse(__func__, "the stand-in only counts nodes: pass NULL for them");
    *count = g->body.count;
    return leave(error);
}

/* ---------------------------------------------------------------------------------------------------- leaks */

size_t graph_leaks(void) {
    size_t count = 0;
    for (const struct CUgraph_st *g = all_graphs; g; g = g->next) count += g->alive;
    if (count) fprintf(stderr, "stand-in: %zu graphs were not destroyed\n", count);
    size_t graphs = count;
    for (const struct CUgraphExec_st *x = all_executables; x; x = x->next) count += x->alive;
    if (count > graphs) fprintf(stderr, "stand-in: %zu executable graphs were not destroyed\n", count - graphs);
    return count;
}

void graph_reset(void) {
    while (all_captures) {
        capture *c = all_captures;
        all_captures = c->next;
        free(c);
    }
    while (all_graphs) {
        struct CUgraph_st *g = all_graphs;
        all_graphs = g->next;
        free_body(&g->body);
        free(g);
    }
    while (all_executables) {
        struct CUgraphExec_st *x = all_executables;
        all_executables = x->next;
        free_body(&x->body);
        free(x);
    }
}
