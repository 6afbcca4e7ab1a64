#include "gtcrn_tflm.h"

#include <cstring>

#include "gtcrn_operators.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

alignas(16) uint8_t arena[GTCRN_ARENA_SIZE];

// Not in the arena: what an input held is gone after Invoke(), since other tensors, the outputs among them, have taken
// its place; copying outputs straight to inputs would overwrite outputs that are not copied yet.
uint8_t states[GTCRN_STATES_BYTES];

tflite::MicroInterpreter* interpreter = nullptr;

bool make_interpreter() {
  static GtcrnResolver resolver;
  if (gtcrn_register(resolver) != kTfLiteOk) return false;
  static tflite::MicroInterpreter made(tflite::GetModel(gtcrn_model), resolver, arena, sizeof arena);
  if (made.AllocateTensors() != kTfLiteOk) return false;
  if (made.inputs_size() != 1 + GTCRN_STATES || made.outputs_size() != 1 + GTCRN_STATES) return false;
  interpreter = &made;
  return true;
}

}  // namespace

int gtcrn_tflm_reset(void) {
  if (!interpreter && !make_interpreter()) return -1;
  uint8_t* place = states;
  for (const gtcrn_state& state : gtcrn_states) {
    std::memset(place, state.zero_point, state.bytes);
    place += state.bytes;
  }
  return 0;
}

int gtcrn_tflm(void*, const gtcrn_input_code* input, gtcrn_mask_code* mask) {
  std::memcpy(interpreter->input(0)->data.raw, input, GTCRN_INPUT_SIZE * sizeof *input);
  uint8_t* state = states;
  for (int i = 0; i < GTCRN_STATES; state += gtcrn_states[i++].bytes)
    std::memcpy(interpreter->input(1 + i)->data.raw, state, gtcrn_states[i].bytes);
  if (interpreter->Invoke() != kTfLiteOk) return -1;
  std::memcpy(mask, interpreter->output(0)->data.raw, GTCRN_MASK_SIZE * sizeof *mask);
  state = states;
  for (int i = 0; i < GTCRN_STATES; state += gtcrn_states[i++].bytes)
    std::memcpy(state, interpreter->output(1 + i)->data.raw, gtcrn_states[i].bytes);
  return 0;
}
