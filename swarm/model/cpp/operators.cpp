// What torch sees of products and attention, and how layers are run that torch compiled (compiling.py): code that calls our functions, called by us, without Python
// in between and without its lock. On torch's stable C interface.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <exception>
#include <optional>
#include <vector>

#include "attention.h"

extern "C" {
void product_float32(const float*, const float*, float*, long, long, long, int);
void product_bfloat16(const uint16_t*, const uint16_t*, uint16_t*, long, long, long, int);
void product_int8_float32(const float*, const int8_t*, const float*, float*, long, long, long, int);
void product_int8_bfloat16(const uint16_t*, const int8_t*, const float*, uint16_t*, long, long, long, int);
void product_int4_float32(const float*, const uint8_t*, const uint16_t*, float*, long, long, long, int);
void product_int4_bfloat16(const uint16_t*, const uint8_t*, const uint16_t*, uint16_t*, long, long, long, int);
}

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Whose tokens are in the row, and on how many threads they are computed.
thread_local struct {
    const swarm::Session* sessions;
    int64_t count, first_layer;
    int threads;
} turn{nullptr, 0, 0, 1};

template <class Number>
const Number* numbers_of(const Tensor& tensor) {
    return static_cast<const Number*>(tensor.data_ptr());
}

template <class Number>
Number* room_of(const Tensor& tensor) {
    return static_cast<Number*>(tensor.data_ptr());
}

bool is_wide(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Float; }

// The y [..., O] of x [..., I].
Tensor results_of(const Tensor& x, int64_t outputs) {
    std::vector<int64_t> sizes;
    for (int64_t dim = 0; dim < x.dim() - 1; dim++) sizes.push_back(x.size(dim));
    sizes.push_back(outputs);
    return torch::stable::new_empty(x, sizes);
}

Tensor product(Tensor x, Tensor w) {
    x = torch::stable::contiguous(x);
    const int64_t outputs = w.size(0), inputs = w.size(1), rows = x.numel() / inputs;
    Tensor y = results_of(x, outputs);
    if (is_wide(x))
        product_float32(numbers_of<float>(x), numbers_of<float>(w), room_of<float>(y), rows, inputs, outputs, turn.threads);
    else
        product_bfloat16(numbers_of<uint16_t>(x), numbers_of<uint16_t>(w), room_of<uint16_t>(y), rows, inputs, outputs, turn.threads);
    return y;
}

// The same of weights that are rounded to steps: `wide` and `narrow` multiply rows of float32 and of bfloat16.
template <class Weight, class Step, auto wide, auto narrow>
Tensor product_rounded(Tensor x, const Tensor& w, const Tensor& steps, int64_t inputs) {
    x = torch::stable::contiguous(x);
    const int64_t outputs = w.size(0), rows = x.numel() / inputs;
    Tensor y = results_of(x, outputs);
    const auto* weights = numbers_of<Weight>(w);
    const auto* widths = numbers_of<Step>(steps);
    if (is_wide(x))
        wide(numbers_of<float>(x), weights, widths, room_of<float>(y), rows, inputs, outputs, turn.threads);
    else
        narrow(numbers_of<uint16_t>(x), weights, widths, room_of<uint16_t>(y), rows, inputs, outputs, turn.threads);
    return y;
}

Tensor product_int8(Tensor x, Tensor w, Tensor scales) {
    return product_rounded<int8_t, float, product_int8_float32, product_int8_bfloat16>(x, w, scales, w.size(1));
}

Tensor product_int4(Tensor x, Tensor w, Tensor widths) {
    return product_rounded<uint8_t, uint16_t, product_int4_float32, product_int4_bfloat16>(x, w, widths, 2 * w.size(1));
}

// [1, heads, T, width], as transformers gives it, with the numbers of a head side by side; and its strides of tokens and of heads.
Tensor heads_of(const Tensor& given, int64_t strides[2]) {
    const Tensor x = given.stride(3) == 1 ? given : torch::stable::contiguous(given);
    strides[0] = x.stride(2);
    strides[1] = x.stride(1);
    return x;
}

// [1, T, Q, E]. `layer` is a tensor of one number, since all layers of a kind share their code.
Tensor attend(Tensor q, Tensor k, Tensor v, Tensor layer, double scaling, int64_t window, double softcap, std::optional<Tensor> sinks) {
    swarm::Attention all{};
    q = heads_of(q, all.query_strides);
    k = heads_of(k, all.key_strides);
    v = heads_of(v, all.value_strides);
    Tensor out = torch::stable::new_empty(q, {1, q.size(2), q.size(1), v.size(3)});
    all.sessions = turn.sessions;
    all.session_count = turn.count;
    all.layer = *numbers_of<int64_t>(layer) - turn.first_layer;
    all.queries = q.data_ptr();
    all.keys = k.data_ptr();
    all.values = v.data_ptr();
    all.out = out.data_ptr();
    all.query_heads = q.size(1);
    all.heads = k.size(1);
    all.key_width = k.size(3);
    all.value_width = v.size(3);
    all.window = window;
    all.scaling = static_cast<float>(scaling);
    all.softcap = static_cast<float>(softcap);
    all.sinks = sinks ? numbers_of<float>(*sinks) : nullptr;
    all.numbers = is_wide(q) ? swarm::FLOAT32 : swarm::BFLOAT16;
    swarm::attend(&all, turn.threads);
    return out;
}

// A result for compiled code, whose tensors are handles.
template <class Make>
AOTITorchError given(AtenTensorHandle* out, Make make) {
    try {
        return aoti_torch_new_tensor_handle(make().get(), out);
    } catch (const std::exception&) {
        return AOTI_TORCH_FAILURE;
    }
}

Tensor borrowed(AtenTensorHandle handle) {
    AtenTensorHandle ours = nullptr;
    if (aoti_torch_new_tensor_handle(handle, &ours) != AOTI_TORCH_SUCCESS) throw std::bad_alloc();
    return Tensor(ours);
}

}  // namespace

// --- what compiled code calls: the names that torch gives them (compiling.py, SHIMS) ---

extern "C" AOTITorchError aoti_torch_cpu_product(AtenTensorHandle x, AtenTensorHandle w, AtenTensorHandle* out) {
    return given(out, [&] { return product(borrowed(x), borrowed(w)); });
}

extern "C" AOTITorchError aoti_torch_cpu_product_int8(AtenTensorHandle x, AtenTensorHandle w, AtenTensorHandle scales, AtenTensorHandle* out) {
    return given(out, [&] { return product_int8(borrowed(x), borrowed(w), borrowed(scales)); });
}

extern "C" AOTITorchError aoti_torch_cpu_product_int4(AtenTensorHandle x, AtenTensorHandle w, AtenTensorHandle widths, AtenTensorHandle* out) {
    return given(out, [&] { return product_int4(borrowed(x), borrowed(w), borrowed(widths)); });
}

extern "C" AOTITorchError aoti_torch_cpu_attend(
    AtenTensorHandle q, AtenTensorHandle k, AtenTensorHandle v, AtenTensorHandle layer, double scaling, int64_t window, double softcap, AtenTensorHandle* sinks,
    AtenTensorHandle* out) {
    return given(out, [&] {
        std::optional<Tensor> some;
        if (sinks) some = borrowed(*sinks);
        return attend(borrowed(q), borrowed(k), borrowed(v), borrowed(layer), scaling, window, softcap, some);
    });
}

// --- how compiled layers are run (operators.py) ---

// Said before a model runs, on the thread on which it runs.
extern "C" void begin_turn(const swarm::Session* sessions, int64_t count, int64_t first_layer, int threads) { turn = {sessions, count, first_layer, threads}; }

// A tensor in memory of the CPU that somebody else owns.
struct Lent {
    void* data;
    int64_t rank, sizes[4], strides[4];
    int32_t dtype;
};

extern "C" AtenTensorHandle lend(const Lent* it) {
    AtenTensorHandle handle = nullptr;
    aoti_torch_create_tensor_from_blob(it->data, it->rank, it->sizes, it->strides, 0, it->dtype, aoti_torch_device_type_cpu(), 0, &handle);
    return handle;
}

// A layer as AOTInductor's C interface has it: its container, what runs that, and the layer's number, which is its first input.
using Run = AOTITorchError (*)(void* container, AtenTensorHandle* inputs, size_t input_count, AtenTensorHandle* outputs, size_t output_count, void*, void*);
struct Layer {
    Run run;
    void* container;
    Lent number;
};

enum Failure { NONE, RUNNING, SIZE, MEMORY };

// The one result of a layer must have so many bytes, and is copied to `room`.
Failure run_layer(const Layer& layer, const Lent& hidden, const Lent* others, int64_t other_count, void* room, int64_t bytes) {
    try {
        std::vector<AtenTensorHandle> handles{lend(&layer.number), lend(&hidden)};
        for (int64_t i = 0; i < other_count; i++) handles.push_back(lend(others + i));
        AtenTensorHandle made = nullptr;
        if (layer.run(layer.container, handles.data(), handles.size(), &made, 1, nullptr, nullptr) != AOTI_TORCH_SUCCESS) return RUNNING;  // inputs are gone anyway
        const Tensor result = torch::stable::contiguous(Tensor(made));
        if (result.numel() * static_cast<int64_t>(result.element_size()) != bytes) return SIZE;
        std::memcpy(room, result.data_ptr(), bytes);
        return NONE;
    } catch (const std::exception&) {
        return MEMORY;
    }
}

// Layers in turn, each of which is given what the one before it gave, the first `inputs[0]`, and beside that what all are given. Results follow one another in
// `room`. How many layers ran; `failure` says why the next one did not.
extern "C" int64_t run_layers(const Layer* layers, int64_t count, const Lent* inputs, int64_t input_count, char* room, int64_t bytes, int32_t* failure) {
    Lent hidden = inputs[0];
    for (int64_t at = 0; at < count; at++) {
        *failure = run_layer(layers[at], hidden, inputs + 1, input_count - 1, room, bytes);
        if (*failure != NONE) return at;
        hidden.data = room;
        room += bytes;
    }
    return count;
}

STABLE_TORCH_LIBRARY(swarm, library) {
    library.def("product(Tensor x, Tensor w) -> Tensor");
    library.def("product_int8(Tensor x, Tensor w, Tensor scales) -> Tensor");
    library.def("product_int4(Tensor x, Tensor w, Tensor widths) -> Tensor");
    library.def("attend(Tensor q, Tensor k, Tensor v, Tensor layer, float scaling, int window, float softcap, Tensor? sinks) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(swarm, CPU, library) {
    library.impl("product", TORCH_BOX(&product));
    library.impl("product_int8", TORCH_BOX(&product_int8));
    library.impl("product_int4", TORCH_BOX(&product_int4));
    library.impl("attend", TORCH_BOX(&attend));
}
