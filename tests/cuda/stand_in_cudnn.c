/*
 * stand_in_cudnn.c - the stand-in for cuDNN: a fused graph against sums in double, engines that have to be chosen from,
 * and every descriptor that the real library refuses.
 */
#include "stand_ins/stand_ins.h"
#include "test.h"

#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <stdbool.h>
#include <stdint.h>

#define CHECK_CALL(call) CHECK_INT(call, 0)
#define REFERENCE CUDNN_TYPE_BACKEND_DESCRIPTOR

typedef cudnnBackendDescriptor_t descriptor;

static cudnnHandle_t handle;
static cudaStream_t stream;
static descriptor owned[256];
static int owned_count;

/* ----------------------------------------------------------------------------------------------- descriptors */

static descriptor make(cudnnBackendDescriptorType_t type) {
    CHECK_CALL(cudnnBackendCreateDescriptor(type, &owned[owned_count]));
    return owned[owned_count++];
}

static void destroy_all(void) {
    while (owned_count) CHECK_CALL(cudnnBackendDestroyDescriptor(owned[--owned_count]));
}

static cudnnStatus_t set(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                         int64_t count, const void *values) {
    return cudnnBackendSetAttribute(d, name, type, count, values);
}

static void refer(descriptor d, cudnnBackendAttributeName_t name, descriptor to) {
    CHECK_CALL(set(d, name, REFERENCE, 1, &to));
}

/* dimensions n, c, h, w; channels last unless strides are given; fp32 when virtual, else as asked for. */
static descriptor tensor_with(int64_t id, cudnnDataType_t type, const int64_t *d, const int64_t *strides,
                              bool virtual) {
    const int64_t packed[4] = {d[1] * d[2] * d[3], 1, d[1] * d[3], d[1]}, alignment = 4;
    descriptor t = make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    CHECK_CALL(set(t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id));
    CHECK_CALL(set(t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type));
    CHECK_CALL(set(t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, d));
    CHECK_CALL(set(t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides ? strides : packed));
    CHECK_CALL(set(t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment));
    CHECK_CALL(set(t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &virtual));
    return t;
}

static descriptor tensor(int64_t id, cudnnDataType_t type, int64_t n, int64_t c, int64_t h, int64_t w, bool virtual) {
    const int64_t d[4] = {n, c, h, w};
    descriptor t = tensor_with(id, type, d, NULL, virtual);
    CHECK_CALL(cudnnBackendFinalize(t));
    return t;
}

static descriptor convolution(descriptor x, descriptor w, descriptor y, int64_t pad, int64_t stride) {
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t two = 2, ones[2] = {1, 1}, pads[2] = {pad, pad}, strides[2] = {stride, stride};
    const float alpha = 1, beta = 0;
    descriptor how = make(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    CHECK_CALL(set(how, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &two));
    CHECK_CALL(set(how, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type));
    CHECK_CALL(set(how, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode));
    CHECK_CALL(set(how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, pads));
    CHECK_CALL(set(how, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, pads));
    CHECK_CALL(set(how, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, ones));
    CHECK_CALL(set(how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, strides));
    CHECK_CALL(cudnnBackendFinalize(how));
    descriptor o = make(CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    refer(o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
    refer(o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w);
    refer(o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    refer(o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, how);
    CHECK_CALL(set(o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &alpha));
    CHECK_CALL(set(o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &beta));
    return o;
}

static descriptor pointwise(cudnnPointwiseMode_t mode, descriptor x, descriptor b, descriptor y) {
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    descriptor how = make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    CHECK_CALL(set(how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode));
    CHECK_CALL(set(how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type));
    CHECK_CALL(cudnnBackendFinalize(how));
    descriptor o = make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    refer(o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    refer(o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b) refer(o, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    refer(o, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    return o;
}

static descriptor graph_of(descriptor *operations, int64_t count) {
    for (int64_t i = 0; i < count; i++) CHECK_CALL(cudnnBackendFinalize(operations[i]));
    descriptor g = make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    CHECK_CALL(set(g, CUDNN_ATTR_OPERATIONGRAPH_OPS, REFERENCE, count, operations));
    return g;
}

static descriptor device_here(void) {
    descriptor d = make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    CHECK_CALL(set(d, CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle));
    CHECK_CALL(cudnnBackendFinalize(d));
    return d;
}

enum { CONFIGURATIONS = 16 };

/* What the heuristics offer. */
static int64_t configurations_of(descriptor graph, descriptor device, descriptor found[CONFIGURATIONS]) {
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    int64_t count = -1;
    descriptor h = make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    refer(h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    CHECK_CALL(set(h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode));
    refer(h, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
    CHECK_CALL(cudnnBackendFinalize(h));
    for (int i = 0; i < CONFIGURATIONS; i++) found[i] = make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    CHECK_CALL(cudnnBackendGetAttribute(h, CUDNN_ATTR_ENGINEHEUR_RESULTS, REFERENCE, CONFIGURATIONS, &count, found));
    return count;
}

static cudnnStatus_t plan_of(descriptor configuration, descriptor device, descriptor *plan) {
    *plan = make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    refer(*plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
    refer(*plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
    return cudnnBackendFinalize(*plan);
}

/* --------------------------------------------------------------------- y = relu(keep conv(x) + shift + residual) */

enum { IMAGES = 3, C = 8, H = 5, K = 16, X = 1, W, Y, KEEP, SHIFT, RESIDUAL, TENSORS };

static descriptor layer_graph(bool keep) {
    const cudnnDataType_t f = CUDNN_DATA_FLOAT, b = CUDNN_DATA_BFLOAT16;
    descriptor sums = tensor(20, f, IMAGES, K, H, H, true), kept = tensor(21, f, IMAGES, K, H, H, true);
    descriptor shifted = tensor(22, f, IMAGES, K, H, H, true), added = tensor(23, f, IMAGES, K, H, H, true);
    descriptor operations[5] = {
        convolution(tensor(X, b, IMAGES, C, H, H, false), tensor(W, b, K, C, 3, 3, false), sums, 1, 1),
        pointwise(CUDNN_POINTWISE_MUL, sums, tensor(KEEP, f, keep ? IMAGES : 1, K, 1, 1, false), kept),
        pointwise(CUDNN_POINTWISE_ADD, kept, tensor(SHIFT, f, 1, K, 1, 1, false), shifted),
        pointwise(CUDNN_POINTWISE_ADD, shifted, tensor(RESIDUAL, b, IMAGES, K, H, H, false), added),
        pointwise(CUDNN_POINTWISE_RELU_FWD, added, NULL, tensor(Y, b, IMAGES, K, H, H, false)),
    };
    descriptor g = graph_of(operations, 5);
    CHECK_CALL(cudnnBackendFinalize(g));
    return g;
}

static uint16_t to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static double from_bf16(uint16_t h) {
    const uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint16_t x[IMAGES * H * H * C], w[K * 9 * C], residual[IMAGES * H * H * K], y[IMAGES * H * H * K];
static float keep[IMAGES * K], shift[K];

static void fill(void) {
    for (int i = 0; i < IMAGES * H * H * C; i++) x[i] = to_bf16((float)((i * 37 + 11) % 64) / 32 - 1);
    for (int i = 0; i < K * 9 * C; i++) w[i] = to_bf16((float)((i * 53 + 5) % 64) / 32 - 1);
    for (int i = 0; i < IMAGES * H * H * K; i++) residual[i] = to_bf16((float)((i * 29 + 3) % 64) / 32 - 1);
    for (int i = 0; i < IMAGES * K; i++) keep[i] = i % 3 ? 1 : 0.25f * (float)(i % 2);
    for (int i = 0; i < K; i++) shift[i] = (float)i / 8 - 1;
}

static double expected(int n, int p, int q, int k) {
    double sum = 0;
    for (int r = 0; r < 3; r++)
        for (int s = 0; s < 3; s++) {
            const int i = p + r - 1, j = q + s - 1;
            if (i < 0 || j < 0 || i >= H || j >= H) continue;
            for (int c = 0; c < C; c++)
                sum += from_bf16(x[((n * H + i) * H + j) * C + c]) * from_bf16(w[((k * 3 + r) * 3 + s) * C + c]);
        }
    sum = keep[n * K + k] * sum + shift[k] + from_bf16(residual[((n * H + p) * H + q) * K + k]);
    return sum > 0 ? sum : 0;
}

static double worst_error(void) {
    double worst = 0;
    for (int n = 0; n < IMAGES; n++)
        for (int p = 0; p < H; p++)
            for (int q = 0; q < H; q++)
                for (int k = 0; k < K; k++) {
                    const double e = expected(n, p, q, k), got = from_bf16(y[((n * H + p) * H + q) * K + k]);
                    worst = fmax(worst, fabs(got - e) / (fabs(e) + 1));
                }
    return worst;
}

static void *upload(const void *host, size_t bytes) {
    void *p = NULL;
    CHECK_CALL(cudaMalloc(&p, bytes));
    CHECK_CALL(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice));
    CHECK_CALL(cudaDeviceSynchronize()); /* the copy may return before it has arrived */
    return p;
}

static int64_t ids[TENSORS - 1];
static void *pointers[TENSORS - 1], *workspace;

static descriptor pack_of(int64_t count) {
    descriptor pack = make(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    CHECK_CALL(set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids));
    CHECK_CALL(set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, pointers));
    if (workspace) CHECK_CALL(set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace));
    CHECK_CALL(cudnnBackendFinalize(pack));
    return pack;
}

static void upload_all(void) {
    fill();
    void *const all[] = {upload(x, sizeof x),       upload(w, sizeof w),         upload(y, sizeof y),
                         upload(keep, sizeof keep), upload(shift, sizeof shift), upload(residual, sizeof residual)};
    for (int i = 0; i < TENSORS - 1; i++) {
        ids[i] = i + 1;
        pointers[i] = all[i];
    }
}

static void free_all(void) {
    for (int i = 0; i < TENSORS - 1; i++) CHECK_CALL(cudaFree(pointers[i]));
}

static int64_t engine_of(descriptor configuration, int64_t *notes) {
    cudnnBackendNumericalNote_t note[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t count, index = -1;
    descriptor engine = make(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    CHECK_CALL(cudnnBackendGetAttribute(configuration, CUDNN_ATTR_ENGINECFG_ENGINE, REFERENCE, 1, &count, &engine));
    CHECK_CALL(cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count, &index));
    CHECK_CALL(cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                        CUDNN_NUMERICAL_NOTE_TYPE_COUNT, notes, note));
    return index;
}

static void test_layer(void) {
    test_begin("a convolution with a mask for each image: five configurations, one refuses, the others agree");
    descriptor found[CONFIGURATIONS], plan, device = device_here(), graph = layer_graph(true);
    int planned = 0, wrong = 0;
    upload_all();
    const int64_t count = configurations_of(graph, device, found);
    CHECK_INT(count, 5); /* engines 12, 7 (three tiles), 4 */
    for (int64_t i = 0; i < count; i++) {
        int64_t notes = 0, engine = engine_of(found[i], &notes);
        CHECK_INT(notes, engine == 4 ? 2 : 1);
        if (plan_of(found[i], device, &plan) != CUDNN_STATUS_SUCCESS) continue;
        const size_t before = stand_in_count("run cudnnBackendExecute");
        CHECK_CALL(cudaMemset(pointers[Y - 1], 0xff, sizeof y));
        CHECK_CALL(cudaDeviceSynchronize());
        CHECK_CALL(cudnnBackendExecute(handle, plan, pack_of(TENSORS - 1)));
        CHECK_INT(stand_in_count("run cudnnBackendExecute"), before);
        CHECK_CALL(cudaStreamSynchronize(stream));
        CHECK_CALL(cudaMemcpy(y, pointers[Y - 1], sizeof y, cudaMemcpyDeviceToHost));
        planned++;
        wrong += worst_error() > 1.0 / 256; /* half of bf16's last bit */
    }
    CHECK_INT(planned, 4);
    CHECK_INT(wrong, getenv("COAR_STANDIN_WRONG") ? 1 : 0);
    free_all();
    destroy_all();
}

static void test_workspace(void) {
    test_begin("an engine with a workspace, for one mask a launch");
    descriptor found[CONFIGURATIONS], plan = NULL, device = device_here(), graph = layer_graph(false);
    int64_t bytes = 0, engine = 0, notes, count = configurations_of(graph, device, found);
    CHECK_INT(count, 6);
    engine = engine_of(found[5], &notes);
    CHECK_INT(engine, 1);
    CHECK_CALL(plan_of(found[5], device, &plan));
    CHECK_CALL(
        cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count, &bytes));
    CHECK_INT(bytes, IMAGES * H * H * K * 4);
    upload_all();
    for (int i = K; i < IMAGES * K; i++) keep[i] = keep[i % K];
    CHECK_INT(cudnnBackendExecute(handle, plan, pack_of(TENSORS - 1)), CUDNN_STATUS_BAD_PARAM);
    CHECK_CALL(cudaMalloc(&workspace, (size_t)bytes));
    CHECK_CALL(cudnnBackendExecute(handle, plan, pack_of(TENSORS - 1)));
    CHECK_CALL(cudaStreamSynchronize(stream));
    CHECK_CALL(cudaMemcpy(y, pointers[Y - 1], sizeof y, cudaMemcpyDeviceToHost));
    CHECK_NEAR(worst_error(), 0, 1.0 / 256);

    CHECK_INT(cudnnBackendExecute(handle, plan, pack_of(TENSORS - 2)), CUDNN_STATUS_BAD_PARAM); /* no residual */
    pointers[X - 1] = (char *)pointers[X - 1] + 2;
    CHECK_INT(cudnnBackendExecute(handle, plan, pack_of(TENSORS - 1)), CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER);
    pointers[X - 1] = (char *)pointers[X - 1] - 2;
    CHECK_CALL(cudaFree(workspace));
    workspace = NULL;
    free_all();
    destroy_all();
}

/* ------------------------------------------------------------------------------------------------- refused graphs */

static void test_refused_graphs(void) {
    test_begin("no engine, and success, for zero strides and for pointwise operations alone");
    const cudnnDataType_t f = CUDNN_DATA_FLOAT;
    const int64_t d[4] = {IMAGES, K, H, H}, zero[4] = {K, 1, 0, 0};
    descriptor found[CONFIGURATIONS], plan, device = device_here();
    descriptor repeated = tensor_with(KEEP, f, d, zero, false), sums = tensor(20, f, IMAGES, K, H, H, true);
    CHECK_CALL(cudnnBackendFinalize(repeated));
    descriptor broadcast[2] = {
        convolution(tensor(X, f, IMAGES, C, H, H, false), tensor(W, f, K, C, 3, 3, false), sums, 1, 1),
        pointwise(CUDNN_POINTWISE_MUL, sums, repeated, tensor(Y, f, IMAGES, K, H, H, false))};
    descriptor g = graph_of(broadcast, 2);
    CHECK_CALL(cudnnBackendFinalize(g));
    CHECK_INT(configurations_of(g, device, found), 0);
    descriptor alone = pointwise(CUDNN_POINTWISE_MUL, tensor(X, f, IMAGES, K, H, H, false),
                                 tensor(KEEP, f, IMAGES, K, 1, 1, false), tensor(Y, f, IMAGES, K, H, H, false));
    g = graph_of(&alone, 1);
    CHECK_CALL(cudnnBackendFinalize(g));
    CHECK_INT(configurations_of(g, device, found), 0);
    destroy_all();

    test_begin("a mask in front of the convolution: no plan compiles");
    device = device_here();
    descriptor masked = tensor(20, f, IMAGES, C, H, H, true);
    descriptor before[2] = {
        pointwise(CUDNN_POINTWISE_MUL, tensor(X, f, IMAGES, C, H, H, false), tensor(KEEP, f, IMAGES, C, 1, 1, false),
                  masked),
        convolution(masked, tensor(W, f, K, C, 3, 3, false), tensor(Y, f, IMAGES, K, H, H, false), 1, 1)};
    g = graph_of(before, 2);
    CHECK_CALL(cudnnBackendFinalize(g));
    const int64_t count = configurations_of(g, device, found);
    CHECK(count > 0);
    for (int64_t i = 0; i < count; i++) CHECK(plan_of(found[i], device, &plan) != CUDNN_STATUS_SUCCESS);
    destroy_all();
}

static void test_refused_descriptors(void) {
    test_begin("attributes: unknown, of a wrong type, missing, set too late, referring to what is not finalized");
    const cudnnDataType_t f = CUDNN_DATA_FLOAT;
    const int64_t d[4] = {1, 8, 3, 3}, id = 1, three = 3;
    const int32_t narrow = 1;
    descriptor t = make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    CHECK_INT(set(t, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &narrow), CUDNN_STATUS_BAD_PARAM);
    CHECK_INT(set(t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT32, 1, &narrow), CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
    CHECK_INT(set(t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 2, d), CUDNN_STATUS_BAD_PARAM);
    CHECK_CALL(set(t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id));
    CHECK_INT(cudnnBackendFinalize(t), CUDNN_STATUS_BAD_PARAM);
    t = tensor_with(1, f, d, NULL, false);
    CHECK_CALL(set(t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &three));
    CHECK_INT(cudnnBackendFinalize(t), CUDNN_STATUS_BAD_PARAM);
    descriptor o = make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    CHECK_INT(set(o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, REFERENCE, 1, &t), CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
    t = tensor(1, f, 1, 8, 3, 3, false);
    CHECK_INT(set(t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id), CUDNN_STATUS_BAD_PARAM);

    test_begin("operations and graphs: shapes, operands, virtual tensors");
    descriptor y = tensor(2, f, 1, 8, 3, 3, false), small = tensor(3, f, 1, 8, 2, 2, false),
               none = tensor(4, f, 1, 8, 3, 3, true);
    CHECK_INT(cudnnBackendFinalize(pointwise(CUDNN_POINTWISE_ADD, t, small, y)), CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
    CHECK_INT(cudnnBackendFinalize(pointwise(CUDNN_POINTWISE_ADD, t, NULL, y)), CUDNN_STATUS_BAD_PARAM);
    descriptor w1 = tensor(5, f, 8, 8, 3, 3, false);
    CHECK_INT(cudnnBackendFinalize(convolution(t, w1, small, 1, 1)), CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
    descriptor lost = pointwise(CUDNN_POINTWISE_RELU_FWD, none, NULL, y);
    CHECK_INT(cudnnBackendFinalize(graph_of(&lost, 1)), CUDNN_STATUS_BAD_PARAM);
    descriptor twice[2] = {pointwise(CUDNN_POINTWISE_RELU_FWD, t, NULL, y),
                           pointwise(CUDNN_POINTWISE_RELU_FWD, t, NULL, y)};
    CHECK_INT(cudnnBackendFinalize(graph_of(twice, 2)), CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES);
    destroy_all();

    test_begin("a plan for a described device cannot run");
    static const char json[] = "{\"deviceVer\":900}";
    descriptor device = make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR), found[CONFIGURATIONS], plan;
    CHECK_CALL(set(device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, sizeof json - 1, json));
    CHECK_CALL(cudnnBackendFinalize(device));
    CHECK_INT(configurations_of(layer_graph(true), device, found), 5);
    CHECK_CALL(plan_of(found[1], device, &plan));
    upload_all();
    CHECK_INT(cudnnBackendExecute(handle, plan, pack_of(TENSORS - 1)), CUDNN_STATUS_BAD_PARAM);
    free_all();
    destroy_all();
}

static void open_all(void) {
    CHECK_CALL(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_CALL(cudnnCreate(&handle));
    CHECK_CALL(cudnnSetStream(handle, stream));
}

static void close_all(void) {
    CHECK_CALL(cudnnDestroy(handle));
    CHECK_CALL(cudaStreamDestroy(stream));
}

int main(void) {
    open_all();
    test_layer();
    test_workspace();
    test_refused_graphs();
    test_refused_descriptors();
    close_all();
    setenv("COAR_STANDIN_WRONG", "cudnn:4", 1);
    stand_in_reset();
    open_all();
    test_layer();
    close_all();
    CHECK_INT(stand_in_leaks(), 0);
    return test_end();
}
