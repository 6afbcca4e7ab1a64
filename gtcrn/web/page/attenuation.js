// How much is taken away at most: some of the noisy signal goes back into the enhanced one, as in gtcrn/dsp/attenuation.py.

// the share of the noisy signal for a limit in dB; null is no limit
export const share = limit => limit === null ? 0 : 10 ** (-limit / 20);

// mixes two aligned waves; the share of the noisy one moves from one value to another on the way
export function mix(noisy, enhanced, before, after = before) {
  if (!before && !after) return enhanced;
  const step = (after - before) / noisy.length;
  return enhanced.map((sample, n) => {
    const part = before + step * (n + 1);
    return part * noisy[n] + (1 - part) * sample;
  });
}
