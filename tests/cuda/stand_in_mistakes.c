/*
 * stand_in_mistakes.c - every class of mistake that a program can make with the CUDA runtime is reported by its
 * stand-in. A mistake ends the process, so each is made in a child.
 */
#include "runtime_case.h"

#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 100 };

/* ----------------------------------------------------------------------------------------------------- mistakes */

typedef struct mistake {
    const char *order, *name, *message;
    void (*make)(void);
} mistake;

static cudaStream_t stream, stream2;
static float *device_memory, *pinned;

static void free_twice(void) {
    cudaFree(device_memory);
    cudaFree(device_memory);
}
static void free_host_as_device(void) {
    cudaFree(pinned);
}
static void free_inside(void) {
    cudaFree(device_memory + 1);
}
static void copy_too_much(void) {
    cudaMemcpyAsync(device_memory, pinned, (N + 1) * sizeof(float), cudaMemcpyHostToDevice, stream);
}
static void copy_wrong_way(void) {
    cudaMemcpyAsync(device_memory, pinned, N * sizeof(float), cudaMemcpyDeviceToHost, stream);
}
static void use_freed_stream(void) {
    cudaStreamDestroy(stream);
    cudaMemsetAsync(device_memory, 0, 4, stream);
}
static void use_freed_memory(void) { /* freed between the call and the copy */
    cudaMemsetAsync(device_memory, 0, N * sizeof(float), stream);
    cudaFree(device_memory);
    cudaStreamSynchronize(stream);
}
static void read_device_memory(void) {
    pinned[0] = device_memory[0];
}
static void kernel_uses_freed_memory(void) {
    scale(device_memory, N, 1, stream);
    cudaFree(device_memory);
    cudaStreamSynchronize(stream);
}
static void kernel_writes_behind(void) {
    scale(device_memory, N + 1, 3, stream);
    cudaStreamSynchronize(stream);
    cudaFree(device_memory);
}
static void kernel_of_other_device(void) {
    float *x;
    cudaStream_t s;
    cudaSetDevice(1);
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaMalloc((void **)&x, sizeof(float));
    scale(device_memory, 1, 1, s);
    cudaStreamSynchronize(s);
}
static void copy_of_other_device(void) {
    cudaStream_t s;
    cudaSetDevice(1);
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaMemsetAsync(device_memory, 0, 4, s);
}
static void overwrite_upload(void) { /* a missing wait before the staging buffer is filled again */
    cudaMemcpyAsync(device_memory, pinned, N * sizeof(float), cudaMemcpyHostToDevice, stream);
    pinned[3] = 1;
    cudaStreamSynchronize(stream);
}
static void write_to_download(void) {
    cudaMemcpyAsync(pinned, device_memory, N * sizeof(float), cudaMemcpyDeviceToHost, stream);
    pinned[3] = 1;
    cudaStreamSynchronize(stream);
}
static void free_pending(void) {
    cudaMemcpyAsync(pinned, device_memory, N * sizeof(float), cudaMemcpyDeviceToHost, stream);
    cudaFreeHost(pinned);
}
static void never_wait(void) {
    scale(device_memory, N, 1, stream);
    cudaStreamDestroy(stream);
    cudaFree(device_memory);
    stand_in_reset();
}
static void leak(void) {
    stand_in_reset();
}

/* Results that a missing event makes wrong: the child says so itself. */
static void fail_unless(bool right) {
    if (right) return;
    fprintf(stderr, "wrong result\n");
    abort();
}
static void read_download_early(void) {
    memset(pinned, 0, N * sizeof(float));
    cudaMemset(device_memory, 0, N * sizeof(float));
    cudaMemcpyAsync(pinned, device_memory, N * sizeof(float), cudaMemcpyDeviceToHost, stream);
    fail_unless(pinned[0] == 0);
}
static void kernel_before_upload(void) {
    for (int i = 0; i < N; i++) pinned[i] = 1;
    cudaMemcpyAsync(device_memory, pinned, N * sizeof(float), cudaMemcpyHostToDevice, stream);
    scale(device_memory, N, 2, stream2);
    cudaStreamSynchronize(stream2);
    cudaStreamSynchronize(stream);
    cudaMemcpy(pinned, device_memory, N * sizeof(float), cudaMemcpyDeviceToHost);
    fail_unless(pinned[0] == 2);
}
static void upload_before_kernel(void) { /* the next batch overwrites what this one still needs */
    for (int i = 0; i < N; i++) pinned[i] = 1;
    cudaMemcpy(device_memory, pinned, N * sizeof(float), cudaMemcpyHostToDevice);
    scale(device_memory, N, 2, stream);
    cudaMemcpyAsync(pinned, device_memory, N * sizeof(float), cudaMemcpyDeviceToHost, stream);
    cudaMemsetAsync(device_memory, 0, N * sizeof(float), stream2);
    cudaStreamSynchronize(stream);
    fail_unless(pinned[0] == 2);
}

static const mistake mistakes[] = {
    {"lazy", "freeing twice", "cudaFree: allocation 1 was freed before", free_twice},
    {"lazy", "freeing pinned memory with cudaFree", "cudaFree: allocation 2 is pinned host memory",
     free_host_as_device},
    {"lazy", "freeing the inside of an allocation", "is not what an allocation returned", free_inside},
    {"lazy", "copying too much",
     "cudaMemcpyAsync: the destination: 404 bytes at offset 0 of allocation 1, which has 400", copy_too_much},
    {"lazy", "a wrong direction", "this is a copy from host to device", copy_wrong_way},
    {"lazy", "using a destroyed stream", "the stream was destroyed", use_freed_stream},
    {"lazy", "freeing memory that a fill needs", "the destination lies in allocation 1, which was freed",
     use_freed_memory},
    {"lazy", "dereferencing a device pointer", "the program itself: access to memory of device 0", read_device_memory},
    {"lazy", "a kernel on freed memory", "scale: access to memory of device 0 that was freed",
     kernel_uses_freed_memory},
#ifndef __SANITIZE_ADDRESS__
    {"lazy", "a kernel that writes behind the end", "cudaFree: something wrote behind allocation 1",
     kernel_writes_behind},
#else
    {"lazy", "a kernel that writes behind the end", "use-after-poison", kernel_writes_behind},
#endif
    {"lazy", "a kernel on another device's memory", "scale: access to memory of device 0", kernel_of_other_device},
    {"lazy", "a fill of another device's memory", "is memory of device 0, not of 1", copy_of_other_device},
    {"lazy", "overwriting what is being uploaded", "the program changed host memory", overwrite_upload},
    {"lazy", "writing to what a download will fill", "the program wrote to host memory", write_to_download},
    {"lazy", "freeing what a download will fill", "cudaFreeHost: a copy of allocation 2 is pending", free_pending},
    {"lazy", "work that nothing waits for", "nothing waited for scale", never_wait},
    {"lazy", "leaks", "allocation 2, 400 bytes of pinned memory, was not freed", leak},
    {"lazy", "reading a download early", "wrong result", read_download_early},
    {"lazy", "a missing event before a kernel", "wrong result", kernel_before_upload},
    {"others", "a missing event after a kernel", "wrong result", upload_before_kernel},
};

/* What a child wrote to stderr, when it makes the mistake. Gives how it ended. */
static int run_child(const mistake *m, char *text, size_t size) {
    int ends[2], status = 0;
    if (pipe(ends)) return -1;
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        m->make();
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    ssize_t n;
    while (length + 1 < size && (n = read(ends[0], text + length, size - 1 - length)) > 0) length += (size_t)n;
    text[length] = 0;
    close(ends[0]);
    waitpid(child, &status, 0);
    return status;
}

static void test_mistakes(void) {
    static char text[65536];
    setenv("COAR_STANDIN_DEVICES", "2", 1);
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        const mistake *m = &mistakes[i];
        begin_with("COAR_STANDIN_ORDER", m->order);
        test_begin("mistake: %s", m->name);
        CHECK_CUDA(cudaMalloc((void **)&device_memory, N * sizeof(float)));
        CHECK_CUDA(cudaMallocHost((void **)&pinned, N * sizeof(float)));
        CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        CHECK_CUDA(cudaStreamCreateWithFlags(&stream2, cudaStreamNonBlocking));
        int status = run_child(m, text, sizeof text);
        if (!status || !strstr(text, m->message))
            test_fail(__FILE__, __LINE__, "status %d, \"%s\"; expected \"%s\"", status, text, m->message);
        CHECK_CUDA(cudaStreamDestroy(stream));
        CHECK_CUDA(cudaStreamDestroy(stream2));
        CHECK_CUDA(cudaFree(device_memory));
        CHECK_CUDA(cudaFreeHost(pinned));
    }
    unsetenv("COAR_STANDIN_DEVICES");
    end_with("COAR_STANDIN_ORDER");
}

int main(void) {
    test_mistakes();
    return test_end();
}
