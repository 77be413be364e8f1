/*
 * stand_ins.c - the stand-in for the CUDA runtime itself: correct programs get correct results in every order, bad
 * machines and refused calls give the errors of the real one. Mistakes are in stand_in_mistakes.c.
 */
#include "runtime_case.h"

#include <pthread.h>
#include <stdbool.h>

static const char *const orders[] = {"lazy", "others", "eager", "random:1", "random:2", "random:3"};

/* --------------------------------------------------------------------------------------------- correct programs */

enum { N = 100 };

/* Two streams, double buffers, an event at every crossing: what the engine does. */
static void pipeline(void) {
    cudaStream_t copy, compute;
    cudaEvent_t up[2], done[2], down[2];
    float *in[2], *out[2], *x[2];
    CHECK_CUDA(cudaStreamCreateWithFlags(&copy, cudaStreamNonBlocking));
    CHECK_CUDA(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
    for (int b = 0; b < 2; b++) {
        CHECK_CUDA(cudaEventCreateWithFlags(&up[b], cudaEventDisableTiming));
        CHECK_CUDA(cudaEventCreateWithFlags(&done[b], cudaEventDisableTiming));
        CHECK_CUDA(cudaEventCreateWithFlags(&down[b], cudaEventDisableTiming));
        CHECK_CUDA(cudaMallocHost((void **)&in[b], N * sizeof(float)));
        CHECK_CUDA(cudaMallocHost((void **)&out[b], N * sizeof(float)));
        CHECK_CUDA(cudaMalloc((void **)&x[b], N * sizeof(float)));
    }
    for (int batch = 0; batch < 7; batch++) {
        int b = batch % 2;
        if (batch >= 2) {
            CHECK_CUDA(cudaEventSynchronize(down[b]));
            for (int i = 0; i < N; i++) CHECK_NEAR(out[b][i], 3.0 * (batch - 2 + i), 0);
        }
        for (int i = 0; i < N; i++) in[b][i] = (float)(batch + i);
        CHECK_CUDA(cudaMemcpyAsync(x[b], in[b], N * sizeof(float), cudaMemcpyHostToDevice, copy));
        CHECK_CUDA(cudaEventRecord(up[b], copy));
        CHECK_CUDA(cudaStreamWaitEvent(compute, up[b], 0));
        CHECK_CUDA(scale(x[b], N, 3, compute));
        CHECK_CUDA(cudaEventRecord(done[b], compute));
        CHECK_CUDA(cudaStreamWaitEvent(copy, done[b], 0));
        CHECK_CUDA(cudaMemcpyAsync(out[b], x[b], N * sizeof(float), cudaMemcpyDeviceToHost, copy));
        CHECK_CUDA(cudaEventRecord(down[b], copy));
    }
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK_NEAR(out[0][1], 3.0 * 7, 0);
    for (int b = 0; b < 2; b++) {
        CHECK_CUDA(cudaEventDestroy(up[b]));
        CHECK_CUDA(cudaEventDestroy(done[b]));
        CHECK_CUDA(cudaEventDestroy(down[b]));
        CHECK_CUDA(cudaFreeHost(in[b]));
        CHECK_CUDA(cudaFreeHost(out[b]));
        CHECK_CUDA(cudaFree(x[b]));
    }
    CHECK_CUDA(cudaStreamDestroy(copy));
    CHECK_CUDA(cudaStreamDestroy(compute));
}

/* A graph with a fork: both branches are replayed with the arguments of the capture. */
static void graph(void) {
    cudaStream_t s, side;
    cudaEvent_t fork, join;
    cudaGraph_t g;
    cudaGraphExec_t x;
    enum cudaStreamCaptureStatus status;
    float *a, *b, *host;
    size_t nodes = 0, before = stand_in_count("run scale");
    CHECK_CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CHECK_CUDA(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
    CHECK_CUDA(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    CHECK_CUDA(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    CHECK_CUDA(cudaMalloc((void **)&a, N * sizeof(float)));
    CHECK_CUDA(cudaMalloc((void **)&b, N * sizeof(float)));
    CHECK_CUDA(cudaMallocHost((void **)&host, 2 * N * sizeof(float)));

    CHECK_CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CHECK_CUDA(cudaMemcpyAsync(a, host, N * sizeof(float), cudaMemcpyHostToDevice, s));
    CHECK_CUDA(cudaEventRecord(fork, s));
    CHECK_CUDA(cudaStreamWaitEvent(side, fork, 0));
    CHECK_CUDA(cudaMemcpyAsync(b, a, N * sizeof(float), cudaMemcpyDeviceToDevice, side));
    CHECK_CUDA(scale(b, N, 2, side));
    CHECK_CUDA(cudaEventRecord(join, side));
    CHECK_CUDA(cudaStreamWaitEvent(s, join, 0));
    CHECK_CUDA(scale(a, N, 5, s));
    CHECK_CUDA(cudaMemcpyAsync(host, a, N * sizeof(float), cudaMemcpyDeviceToHost, s));
    CHECK_CUDA(cudaMemcpyAsync(host + N, b, N * sizeof(float), cudaMemcpyDeviceToHost, s));
    CHECK_CUDA(cudaStreamIsCapturing(s, &status));
    CHECK_INT(status, cudaStreamCaptureStatusActive);
    CHECK_CUDA(cudaStreamEndCapture(s, &g));
    CHECK_CUDA(cudaGraphGetNodes(g, NULL, &nodes));
    CHECK_INT(nodes, 6);
    CHECK_CUDA(cudaGraphInstantiate(&x, g, 0));
    CHECK_CUDA(cudaGraphDestroy(g));
    CHECK_INT(stand_in_count("run scale"), before);
    for (int turn = 1; turn <= 3; turn++) {
        for (int i = 0; i < N; i++) host[i] = (float)(turn * i);
        CHECK_CUDA(cudaGraphLaunch(x, s));
        CHECK_CUDA(cudaStreamSynchronize(s));
        for (int i = 0; i < N; i++) CHECK_NEAR(host[i], 5.0 * turn * i, 0);
        for (int i = 0; i < N; i++) CHECK_NEAR(host[N + i], 2.0 * turn * i, 0);
    }
    CHECK_INT(stand_in_count("run scale"), before + 6);
    CHECK_CUDA(cudaGraphExecDestroy(x));
    CHECK_CUDA(cudaEventDestroy(fork));
    CHECK_CUDA(cudaEventDestroy(join));
    CHECK_CUDA(cudaStreamDestroy(s));
    CHECK_CUDA(cudaStreamDestroy(side));
    CHECK_CUDA(cudaFree(a));
    CHECK_CUDA(cudaFree(b));
    CHECK_CUDA(cudaFreeHost(host));
}

/* The legacy default stream waits for blocking streams and they for it; pageable memory is staged and waited for. */
static void default_stream(void) {
    cudaStream_t s;
    float *x, host[N];
    CHECK_CUDA(cudaStreamCreate(&s));
    CHECK_CUDA(cudaMalloc((void **)&x, sizeof host));
    for (int i = 0; i < N; i++) host[i] = (float)i;
    CHECK_CUDA(cudaMemcpyAsync(x, host, sizeof host, cudaMemcpyHostToDevice, s));
    memset(host, 0, sizeof host);
    CHECK_CUDA(scale(x, N, 2, NULL));
    CHECK_CUDA(scale(x, N, 2, s));
    CHECK_CUDA(cudaMemcpy(host, x, sizeof host, cudaMemcpyDeviceToHost));
    for (int i = 0; i < N; i++) CHECK_NEAR(host[i], 4.0 * i, 0);
    CHECK_CUDA(cudaMemset(x, 0, sizeof host));
    CHECK_CUDA(cudaMemcpyAsync(host, x, sizeof host, cudaMemcpyDeviceToHost, s));
    CHECK_NEAR(host[N - 1], 0, 0);
    CHECK_CUDA(cudaFree(x));
    CHECK_CUDA(cudaStreamDestroy(s));
}

static void waiting(void) {
    cudaStream_t s;
    cudaEvent_t begin, end;
    float *x, ms = -1;
    int asked = 0;
    CHECK_CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CHECK_CUDA(cudaEventCreate(&begin));
    CHECK_CUDA(cudaEventCreate(&end));
    CHECK_CUDA(cudaMalloc((void **)&x, N * sizeof(float)));
    CHECK_CUDA(cudaMemsetAsync(x, 0, N * sizeof(float), s));
    CHECK_CUDA(cudaEventRecord(begin, s));
    CHECK_CUDA(scale(x, N, 2, s));
    CHECK_CUDA(cudaEventRecord(end, s));
    while (cudaEventQuery(end) == cudaErrorNotReady && asked < 100) asked++;
    CHECK(asked < 100);
    CHECK_CUDA(cudaStreamQuery(s));
    cudaGetLastError();
    CHECK_CUDA(cudaEventElapsedTime(&ms, begin, end));
    CHECK(ms >= 0);
    CHECK_CUDA(cudaEventDestroy(begin));
    CHECK_CUDA(cudaEventDestroy(end));
    CHECK_CUDA(cudaFree(x));
    CHECK_CUDA(cudaStreamDestroy(s));
}

static void test_correct(void) {
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        begin_with("COAR_STANDIN_ORDER", orders[i]);
        test_begin("correct programs in order %s", orders[i]);
        pipeline();
        graph();
        default_stream();
        waiting();
        CHECK_INT(stand_in_leaks(), 0);
        CHECK_INT(stand_in_refusals(), 0);
    }
    end_with("COAR_STANDIN_ORDER");
}

/* Nothing runs before it is waited for, and fresh memory is NaN. */
static void test_lazy(void) {
    test_begin("work is deferred");
    cudaStream_t s;
    float *x, *host;
    CHECK_CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CHECK_CUDA(cudaMalloc((void **)&x, N * sizeof(float)));
    CHECK_CUDA(cudaMallocHost((void **)&host, N * sizeof(float)));
    CHECK_INT((size_t)x % 256, 0);
    CHECK(isnan(host[0]));
    CHECK_CUDA(cudaMemcpyAsync(host, x, N * sizeof(float), cudaMemcpyDeviceToHost, s));
    CHECK_CUDA(scale(x, N, 1, s));
    CHECK_INT(stand_in_count("run scale"), 0);
    CHECK_CUDA(cudaStreamSynchronize(s));
    CHECK_INT(stand_in_count("run scale"), 1);
    CHECK(isnan(host[N - 1]));
    CHECK_CUDA(cudaFree(x));
    CHECK_CUDA(cudaFreeHost(host));
    CHECK_CUDA(cudaStreamDestroy(s));
    stand_in_reset();
}

/* ------------------------------------------------------------------------------------------ machines that are bad */

static void test_machines(void) {
    int n = -1, version = -1;
    size_t free_bytes = 0, total = 0;
    void *p = NULL;
    struct cudaDeviceProp properties;

    test_begin("no driver, an old driver, no device");
    begin_with("COAR_STANDIN_DRIVER", "0");
    CHECK_INT(cudaGetDeviceCount(&n), cudaErrorInsufficientDriver);
    CHECK_CUDA(cudaDriverGetVersion(&version));
    CHECK_INT(version, 0);
    begin_with("COAR_STANDIN_DRIVER", "11040");
    CHECK_INT(cudaSetDevice(0), cudaErrorInsufficientDriver);
    CHECK_INT(cudaMalloc(&p, 1), cudaErrorInsufficientDriver);
    end_with("COAR_STANDIN_DRIVER");
    begin_with("COAR_STANDIN_DEVICES", "0");
    CHECK_INT(cudaGetDeviceCount(&n), cudaErrorNoDevice);
    CHECK_INT(n, 0);
    end_with("COAR_STANDIN_DEVICES");

    test_begin("old devices, small devices");
    begin_with("COAR_STANDIN_CAPABILITY", "7.5");
    CHECK_CUDA(cudaGetDeviceProperties(&properties, 0));
    CHECK_INT(properties.major * 10 + properties.minor, 75);
    CHECK_INT(scale(NULL, 0, 1, NULL), cudaErrorNoKernelImageForDevice);
    end_with("COAR_STANDIN_CAPABILITY");
    begin_with("COAR_STANDIN_MEMORY", "1000");
    CHECK_CUDA(cudaMemGetInfo(&free_bytes, &total));
    CHECK_INT(total, 1000);
    CHECK_INT(cudaMalloc(&p, 1001), cudaErrorMemoryAllocation);
    CHECK(!p);
    CHECK_INT(cudaGetLastError(), cudaErrorMemoryAllocation);
    CHECK_CUDA(cudaMalloc(&p, 1000));
    CHECK_CUDA(cudaMemGetInfo(&free_bytes, &total));
    CHECK_INT(free_bytes, 0);
    CHECK_CUDA(cudaFree(p));
    end_with("COAR_STANDIN_MEMORY");

    test_begin("failures on request");
    stand_in_fail("cudaMalloc", 1, cudaErrorMemoryAllocation);
    CHECK_CUDA(cudaMalloc(&p, 1));
    CHECK_CUDA(cudaFree(p));
    CHECK_INT(cudaMalloc(&p, 1), cudaErrorMemoryAllocation);
    CHECK_CUDA(cudaMalloc(&p, 1));
    CHECK_CUDA(cudaFree(p));
    CHECK_INT(cudaPeekAtLastError(), cudaErrorMemoryAllocation);
    CHECK_INT(cudaGetLastError(), cudaErrorMemoryAllocation);
    CHECK_CUDA(cudaGetLastError());
    stand_in_reset();
}

static void test_dead_device(void) {
    float *x[2], *host;
    cudaStream_t s[2];
    test_begin("a device that fails for good, beside one that works");
    setenv("COAR_STANDIN_DEVICES", "2", 1);
    begin_with("COAR_STANDIN_KILL", "1:1:700");
    for (int d = 0; d < 2; d++) {
        CHECK_CUDA(cudaSetDevice(d));
        CHECK_CUDA(cudaStreamCreateWithFlags(&s[d], cudaStreamNonBlocking));
        CHECK_CUDA(cudaMalloc((void **)&x[d], N * sizeof(float)));
        CHECK_CUDA(scale(x[d], N, 1, s[d]));
        CHECK_CUDA(scale(x[d], N, 1, s[d]));
    }
    CHECK_CUDA(cudaMallocHost((void **)&host, N * sizeof(float)));
    CHECK_CUDA(cudaMemcpyAsync(host, x[1], N * sizeof(float), cudaMemcpyDeviceToHost, s[1]));
    CHECK_CUDA(scale(x[1], N, 1, s[1]));
    CHECK_INT(cudaStreamSynchronize(s[1]), cudaErrorIllegalAddress);
    CHECK_INT(cudaMemsetAsync(x[1], 0, N, s[1]), cudaErrorIllegalAddress);
    CHECK_INT(cudaGetLastError(), cudaErrorIllegalAddress);
    CHECK_INT(cudaGetLastError(), cudaErrorIllegalAddress);
    CHECK_INT(cudaFreeHost(host), cudaErrorIllegalAddress); /* what was pending never runs */
    CHECK_INT(cudaFree(x[1]), cudaErrorIllegalAddress);
    CHECK_INT(cudaStreamDestroy(s[1]), cudaErrorIllegalAddress);
    CHECK_CUDA(cudaSetDevice(0));
    CHECK_CUDA(cudaStreamSynchronize(s[0]));
    CHECK_CUDA(cudaFree(x[0]));
    CHECK_CUDA(cudaStreamDestroy(s[0]));
    CHECK_INT(stand_in_count("run scale"), 3);
    CHECK_INT(stand_in_leaks(), 0);
    unsetenv("COAR_STANDIN_DEVICES");
    end_with("COAR_STANDIN_KILL");
}

/* One worker for each device, at the same time. */
static void *work(void *device) {
    bool *failed = malloc(sizeof *failed);
    float *x, host[N];
    cudaStream_t s;
    *failed = cudaSetDevice(*(int *)device) || cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) ||
              cudaMalloc((void **)&x, sizeof host);
    for (int turn = 0; turn < 20 && !*failed; turn++) {
        for (int i = 0; i < N; i++) host[i] = (float)(i + turn);
        *failed = cudaMemcpyAsync(x, host, sizeof host, cudaMemcpyHostToDevice, s) || scale(x, N, 2, s) ||
                  cudaMemcpyAsync(host, x, sizeof host, cudaMemcpyDeviceToHost, s) || cudaStreamSynchronize(s);
        for (int i = 0; i < N; i++) *failed = *failed || host[i] != 2 * (float)(i + turn);
    }
    *failed = *failed || cudaFree(x) || cudaStreamDestroy(s);
    return failed;
}

static void test_threads(void) {
    pthread_t thread[2];
    int device[2] = {0, 1};
    test_begin("two devices, two threads");
    begin_with("COAR_STANDIN_DEVICES", "2");
    for (int d = 0; d < 2; d++) CHECK_INT(pthread_create(&thread[d], NULL, work, &device[d]), 0);
    for (int d = 0; d < 2; d++) {
        void *failed;
        pthread_join(thread[d], &failed);
        CHECK(!*(bool *)failed);
        free(failed);
    }
    end_with("COAR_STANDIN_DEVICES");
}

/* ------------------------------------------------------------------------------------------------- refused calls */

static void test_refusals(void) {
    cudaStream_t s, other;
    cudaEvent_t event;
    cudaGraph_t g;
    void *p = NULL;
    float *x, host[N] = {0};
    CHECK_CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CHECK_CUDA(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    CHECK_CUDA(cudaMalloc((void **)&x, sizeof host));

    test_begin("what may not happen during a capture");
    CHECK_CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CHECK_INT(cudaMalloc(&p, 1), cudaErrorStreamCaptureUnsupported);
    CHECK_INT(scale(x, N, 2, s), cudaErrorStreamCaptureInvalidated);
    CHECK_INT(cudaStreamEndCapture(s, &g), cudaErrorStreamCaptureInvalidated);
    CHECK_CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CHECK_INT(cudaStreamSynchronize(s), cudaErrorStreamCaptureUnsupported);
    CHECK_INT(cudaStreamEndCapture(s, &g), cudaErrorStreamCaptureInvalidated);
    CHECK_CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CHECK_INT(cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice), cudaErrorStreamCaptureUnsupported);
    CHECK_INT(cudaStreamEndCapture(s, &g), cudaErrorStreamCaptureInvalidated);
    CHECK_CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CHECK_INT(cudaMemcpyAsync(x, host, sizeof host, cudaMemcpyHostToDevice, s), cudaErrorStreamCaptureUnsupported);
    CHECK_CUDA(cudaStreamEndCapture(s, &g));
    CHECK_CUDA(cudaGraphDestroy(g));
    CHECK_INT(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeGlobal), cudaErrorStreamCaptureUnsupported);

    test_begin("forks, joins and events of a capture");
    CHECK_CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CHECK_CUDA(cudaEventRecord(event, s));
    CHECK_CUDA(cudaStreamWaitEvent(other, event, 0));
    CHECK_CUDA(scale(x, N, 2, other));
    CHECK_INT(cudaEventQuery(event), cudaErrorCapturedEvent);
    CHECK_INT(cudaStreamEndCapture(s, &g), cudaErrorStreamCaptureUnjoined);
    CHECK_INT(cudaStreamWaitEvent(other, event, 0), cudaErrorCapturedEvent);
    CHECK_CUDA(cudaEventRecord(event, other));
    CHECK_CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CHECK_INT(cudaStreamWaitEvent(s, event, 0), cudaErrorStreamCaptureIsolation);
    CHECK_INT(cudaStreamEndCapture(s, &g), cudaErrorStreamCaptureInvalidated);
    CHECK_CUDA(cudaStreamSynchronize(other));

    test_begin("arguments that the runtime refuses");
    dim3 none = {0, 1, 1}, one = {1, 1, 1}, large = {1025, 1, 1};
    scale_arguments a = {x, N, 1};
    CHECK_INT(simt_launch("scale", scale_run, &a, sizeof a, none, one, 0, s), cudaErrorInvalidConfiguration);
    CHECK_INT(simt_launch("scale", scale_run, &a, sizeof a, one, large, 0, s), cudaErrorInvalidConfiguration);
    CHECK_INT(simt_launch("scale", scale_run, &a, sizeof a, one, one, 1 << 20, s), cudaErrorInvalidValue);
    CHECK_INT(cudaMalloc(&p, 0), cudaErrorInvalidValue);
    CHECK_INT(cudaSetDevice(1), cudaErrorInvalidDevice);
    CHECK(stand_in_refusals() > 0);
    CHECK_CUDA(cudaEventDestroy(event));
    CHECK_CUDA(cudaStreamDestroy(s));
    CHECK_CUDA(cudaStreamDestroy(other));
    CHECK_CUDA(cudaFree(x));
    stand_in_reset();
}

int main(void) {
    test_correct();
    test_lazy();
    test_machines();
    test_dead_device();
    test_threads();
    test_refusals();
    return test_end();
}
