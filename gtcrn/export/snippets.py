"""Programs of about ten lines that call an exported file, for `string.Template`.

$file: its name. $n_fft, $hop, $bins, $latency: of the signal. $window, $power: its window in words, and as a power of a
half sine. $input, $output, $dims: names and shape of the first tensor, $count its size. $shapes: of the states.
"""

from __future__ import annotations

# `denoise` around a `step` of spectra, or of samples
FRAMING = {
    "spectrum": """
window = np.sin(np.pi * np.arange($n_fft) / $n_fft) ** $power  # $window
squares = np.append(window ** 2, np.zeros(-$n_fft % $hop)).reshape(-1, $hop).sum(axis=0)  # of all that overlap
restoring = window / np.resize(squares, $n_fft)
frame, overlap = np.zeros((2, $n_fft))

def denoise(hop):  # ($hop,) float32 -> ($hop,), later by $latency samples
    frame[:] = np.append(frame[$hop:], hop)
    spectrum = np.fft.rfft(frame * window).astype(np.complex64)
    enhanced = step(spectrum.view(np.float32).reshape($dims)).view(np.complex64).ravel()
    overlap[:] = np.append(overlap[$hop:], np.zeros($hop)) + np.fft.irfft(enhanced) * restoring
    return overlap[:$hop].astype(np.float32)
""",
    "wave": """
def denoise(hop):  # ($hop,) float32 -> ($hop,), later by $latency samples
    return step(hop[None])[0]
""",
}

ONNX_PYTHON = """
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("$file")
states = {node.name: np.zeros(node.shape, np.float32) for node in session.get_inputs()[1:]}

def step(x):
    y, *next_states = session.run(None, {"$input": x, **states})
    states.update(zip(states, next_states))
    return y
"""

ONNX_CPP = """
#include <onnxruntime_cxx_api.h>
#include <algorithm>
#include <string>
#include <vector>

Ort::Env env;
Ort::AllocatorWithDefaultOptions allocator;
Ort::Session session(env, ORT_TSTR("$file"), Ort::SessionOptions().SetIntraOpNumThreads(1));
std::vector<std::string> inputs, outputs;
std::vector<Ort::Value> values;  // x and the states, zeros at first

void begin() {
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    inputs.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    outputs.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
    auto shape = session.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape();
    auto& value = values.emplace_back(Ort::Value::CreateTensor<float>(allocator, shape.data(), shape.size()));
    std::fill_n(value.GetTensorMutableData<float>(), value.GetTensorTypeAndShapeInfo().GetElementCount(), 0.0f);
  }
}

void step(float* x) {  // $count floats, in place
  std::vector<const char*> names_in, names_out;
  for (auto& name : inputs) names_in.push_back(name.c_str());
  for (auto& name : outputs) names_out.push_back(name.c_str());
  std::copy_n(x, $count, values[0].GetTensorMutableData<float>());
  auto next = session.Run(Ort::RunOptions{nullptr}, names_in.data(), values.data(), values.size(), names_out.data(),
                          names_out.size());
  std::copy_n(next[0].GetTensorData<float>(), $count, x);
  std::move(next.begin() + 1, next.end(), values.begin() + 1);
}
"""

ONNX_JAVASCRIPT = """
import * as ort from "onnxruntime-web";

const session = await ort.InferenceSession.create("$file");
const zeros = shape => new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b)), shape);
const [input, ...rest] = session.inputMetadata;
const states = Object.fromEntries(rest.map(({ name, shape }) => [name, zeros(shape)]));

async function step(x) {  // Float32Array of $count -> the same
  const next = await session.run({ [input.name]: new ort.Tensor("float32", x, input.shape), ...states });
  for (const name in states) states[name] = next["next_" + name];
  return next.$output.data;
}
"""

SHERPA_PYTHON = """
import numpy as np
import sherpa_onnx

gtcrn = sherpa_onnx.OfflineSpeechDenoiserGtcrnModelConfig("$file")
model = sherpa_onnx.OfflineSpeechDenoiserModelConfig(gtcrn=gtcrn)
denoiser = sherpa_onnx.OnlineSpeechDenoiser(sherpa_onnx.OnlineSpeechDenoiserConfig(model))

def denoise(samples):  # any number of them -> as many as are ready; denoiser.flush().samples are the last
    return np.array(denoiser.run(samples, $rate).samples, np.float32)
"""

SHERPA_CPP = """
#include <vector>
#include "sherpa-onnx/c-api/cxx-api.h"

using namespace sherpa_onnx::cxx;

OnlineSpeechDenoiser load() {
  OnlineSpeechDenoiserConfig config;
  config.model.gtcrn.model = "$file";
  return OnlineSpeechDenoiser::Create(config);
}

std::vector<float> denoise(const OnlineSpeechDenoiser& denoiser, const std::vector<float>& samples) {
  return denoiser.Run(samples.data(), samples.size(), $rate).samples;
}
"""

LITERT_PYTHON = """
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("$file", num_threads=1)
interpreter.allocate_tensors()
inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
states = [np.zeros(node["shape"], np.float32) for node in inputs[1:]]

def step(x):
    for node, value in zip(inputs, [x, *states]):
        interpreter.set_tensor(node["index"], value)
    interpreter.invoke()
    y, *states[:] = (interpreter.get_tensor(node["index"]) for node in outputs)
    return y
"""

LITERT_CPP = """
#include <algorithm>
#include <memory>
#include "tensorflow/lite/interpreter_builder.h"
#include "tensorflow/lite/kernels/register.h"
#include "tensorflow/lite/model_builder.h"

auto model = tflite::FlatBufferModel::BuildFromFile("$file");
tflite::ops::builtin::BuiltinOpResolver resolver;
std::unique_ptr<tflite::Interpreter> interpreter;

void begin() {
  tflite::InterpreterBuilder(*model, resolver)(&interpreter);
  interpreter->SetNumThreads(1);
  interpreter->AllocateTensors();
  for (size_t i = 1; i < interpreter->inputs().size(); ++i)
    std::fill_n(interpreter->input_tensor(i)->data.raw, interpreter->input_tensor(i)->bytes, 0);
}

void step(float* x) {  // $count floats, in place
  std::copy_n(x, $count, interpreter->typed_input_tensor<float>(0));
  interpreter->Invoke();
  std::copy_n(interpreter->typed_output_tensor<float>(0), $count, x);
  for (size_t i = 1; i < interpreter->inputs().size(); ++i)
    std::copy_n(interpreter->output_tensor(i)->data.raw, interpreter->output_tensor(i)->bytes,
                interpreter->input_tensor(i)->data.raw);
}
"""

INTEGERS_PYTHON = """
import io, json, zipfile
import numpy as np
from ai_edge_litert.interpreter import Interpreter

with zipfile.ZipFile("$file") as archive:
    metadata = json.loads(archive.read("metadata.json"))
    analysis, synthesis = (np.load(io.BytesIO(archive.read(f"erb_{name}.npy"))).T for name in ("analysis", "synthesis"))
rho, low = float(metadata["residual_gain"]), int(metadata["low_bins"])
interpreter = Interpreter("$file", num_threads=1)
interpreter.allocate_tensors()
inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
states = [np.full(node["shape"], node["quantization"][1], node["dtype"]) for node in inputs[1:]]
(scale, zero), (mask_scale, mask_zero) = inputs[0]["quantization"], outputs[0]["quantization"]
limits = np.iinfo(inputs[0]["dtype"])

def over_bands(x, matrix):  # between bins and bands; the lowest are the same
    return np.concatenate([x[:, :low], x[:, low:] @ matrix], axis=1)

def encode(x):
    return (np.rint(x / scale) + zero).clip(limits.min, limits.max)

def step(x):
    spectrum = x[0, :, 0].T  # real and imaginary parts
    bands = over_bands(np.stack([np.sqrt((spectrum ** 2).sum(0) + 1e-12), *spectrum]), analysis)
    high = encode(bands)
    codes = np.concatenate([high, encode(rho * (bands - (high - zero) * scale))])
    for node, value in zip(inputs, [codes.T[None, None].astype(limits.dtype), *states]):
        interpreter.set_tensor(node["index"], value)
    interpreter.invoke()
    y, *states[:] = (interpreter.get_tensor(node["index"]) for node in outputs)
    (a, b), (c, d) = over_bands((y[0, 0].T - float(mask_zero)) * mask_scale, synthesis), spectrum
    return np.stack([a * c - b * d, a * d + b * c], axis=-1)[None, :, None].astype(np.float32)
"""

NCNN_PYTHON = """
import ncnn
import numpy as np

net = ncnn.Net()
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
net.load_param("$file/model.ncnn.param")
net.load_model("$file/model.ncnn.bin")
states = [np.zeros(shape, np.float32) for shape in $shapes]

def step(x):
    extractor, inputs = net.create_extractor(), [x, *states]
    for i, value in enumerate(inputs):
        extractor.input(f"in{i}", ncnn.Mat(value[0]).clone())  # ncnn has no batch axis
    results = [np.array(extractor.extract(f"out{i}")[1]) for i in range(len(inputs))]
    y, *states[:] = (result.reshape(value.shape) for result, value in zip(results, inputs))
    return y
"""

NCNN_CPP = """
#include <algorithm>
#include <string>
#include <vector>
#include "net.h"

ncnn::Net net;
std::vector<ncnn::Mat> states = {$mats};

void begin() {
  net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = false;
  net.load_param("$file/model.ncnn.param");
  net.load_model("$file/model.ncnn.bin");
  for (auto& state : states) state.fill(0.0f);
}

void step(float* x) {  // $count floats, in place
  ncnn::Extractor extractor = net.create_extractor();
  extractor.input("in0", ncnn::Mat($count, x).reshape($mat));
  for (size_t i = 0; i < states.size(); ++i) extractor.input(("in" + std::to_string(i + 1)).c_str(), states[i]);
  ncnn::Mat y;
  extractor.extract("out0", y);
  for (size_t i = 0; i < states.size(); ++i) extractor.extract(("out" + std::to_string(i + 1)).c_str(), states[i]);
  ncnn::Mat flat = y.reshape($count);
  std::copy_n((const float*)flat, $count, x);
}
"""

PT2_PYTHON = """
import numpy as np
import torch

program = torch.export.load("$file").module()
states = [torch.zeros(shape) for shape in $shapes]

@torch.inference_mode()
def step(x):
    y, *states[:] = program(torch.tensor(x), *states)
    return y.numpy()
"""

C_CODE = """
#include "$function.h" /* compiled beside $function.c, linked with the mathematical library */

static ${function}_state state; /* one for every stream */
static float samples[$hop];

void enhance(void)
{
    ${function}_init(&state);
    for (;;) {
        /* samples = $hop from the microphone, in [-1, 1] */
        ${function}_process(&state, samples, samples);
        /* to the loudspeaker, $latency later than they came in */
    }
}
"""

# of a format that `gtcrn.export.formats.register` added
REGISTERED_PYTHON = """
from $module import $runner

stream = $runner("$file")
enhanced = stream.process(samples)  # (N,) float32 at $rate Hz -> (N',) of whole hops of $hop, later by $latency samples
"""

# by format, or of integers in .tflite: {language: program}; `denoise` is added to a Python program that has none
CALLS = {
    "onnx": {"Python": ONNX_PYTHON, "C++": ONNX_CPP, "JavaScript": ONNX_JAVASCRIPT},
    "onnx_wave": {"Python": ONNX_PYTHON, "C++": ONNX_CPP, "JavaScript": ONNX_JAVASCRIPT},
    "sherpa_onnx": {"Python": SHERPA_PYTHON, "C++": SHERPA_CPP, "JavaScript": ONNX_JAVASCRIPT},
    "litert": {"Python": LITERT_PYTHON, "C++": LITERT_CPP},
    "integers": {"Python": INTEGERS_PYTHON},
    "ncnn": {"Python": NCNN_PYTHON, "C++": NCNN_CPP},
    "pt2": {"Python": PT2_PYTHON},
    "c": {"C": C_CODE, "Python": REGISTERED_PYTHON},
}
