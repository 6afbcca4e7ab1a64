#include "gtcrn_model.h"

const gtcrn_state gtcrn_states[GTCRN_STATES] = {
$state_rows
};

const gtcrn_bin gtcrn_erb[GTCRN_BINS] = {
$bin_rows
};

const float gtcrn_sine[GTCRN_N_FFT / 2 + 1] = {
$sine_rows
};

__attribute__((aligned(16))) const unsigned char gtcrn_model[GTCRN_MODEL_SIZE] = {
$model_rows
};
