// Spectrograms: `power` computes them, in the worker; `draw` draws them, on the page.

const WINDOW = 0.032; // s, to the nearest power of two
const MOST_FRAMES = 1500; // no screen shows more
const RANGE = 75; // dB below the brightest colour
const MAGMA = ["000004", "1d1147", "51127c", "832681", "b73779", "e75263", "fc8961", "fec488", "fcfdbf"];

// returns {bins, frames, decibels: Float32Array (frames x bins), limits}, where 0 dB is a full-scale sine
export function power(wave, rate) {
  const size = 2 ** Math.round(Math.log2(WINDOW * rate)), bins = size / 2 + 1;
  const hop = Math.max(size / 4, Math.ceil(wave.length / MOST_FRAMES)), frames = Math.max(1, Math.round(wave.length / hop));
  const window = Float32Array.from({ length: size }, (_, n) => 0.5 - 0.5 * Math.cos(2 * Math.PI * n / size));
  const transform = new Fourier(size), real = new Float32Array(size), imaginary = new Float32Array(size);
  const decibels = new Float32Array(frames * bins);
  for (let frame = 0; frame < frames; frame++) {
    const start = Math.round((frame + 0.5) * hop) - size / 2;
    for (let n = 0; n < size; n++) real[n] = (wave[start + n] ?? 0) * window[n];
    imaginary.fill(0);
    transform.apply(real, imaginary);
    for (let bin = 0; bin < bins; bin++) {
      const magnitude = 4 * Math.hypot(real[bin], imaginary[bin]) / size; // the window's mean is a half
      decibels[frame * bins + bin] = 20 * Math.log10(Math.max(magnitude, 1e-10));
    }
  }
  return { bins, frames, decibels, limits: colourLimits(decibels) };
}

// a Fourier transform in place, of a length that is a power of two
class Fourier {
  constructor(size) {
    this.size = size;
    this.cosines = Float32Array.from({ length: size / 2 }, (_, n) => Math.cos(2 * Math.PI * n / size));
    this.sines = Float32Array.from({ length: size / 2 }, (_, n) => Math.sin(2 * Math.PI * n / size));
    const bits = Math.log2(size);
    this.reversed = Uint32Array.from({ length: size }, (_, n) => {
      let other = 0;
      for (let bit = 0; bit < bits; bit++) other |= (n >> bit & 1) << bits - 1 - bit;
      return other;
    });
  }

  apply(real, imaginary) {
    this.reversed.forEach((other, n) => {
      if (n < other) [real[n], real[other], imaginary[n], imaginary[other]] = [real[other], real[n], imaginary[other], imaginary[n]];
    });
    for (let half = 1; half < this.size; half *= 2) {
      const stride = this.size / (2 * half);
      for (let begin = 0; begin < this.size; begin += 2 * half) {
        for (let n = 0; n < half; n++) {
          const cosine = this.cosines[n * stride], sine = this.sines[n * stride], low = begin + n, high = low + half;
          const x = real[high] * cosine + imaginary[high] * sine, y = imaginary[high] * cosine - real[high] * sine;
          real[high] = real[low] - x;
          imaginary[high] = imaginary[low] - y;
          real[low] += x;
          imaginary[low] += y;
        }
      }
    }
  }
}

// returns [darkest, brightest] in dB by a percentile, since with the maximum a click or an offset would darken the rest
function colourLimits(decibels) {
  const sorted = decibels.slice().sort();
  const top = 5 * Math.ceil(Math.max(sorted[Math.floor(0.999 * (sorted.length - 1))], -100) / 5);
  return [top - RANGE, top];
}

export const gradient = `linear-gradient(to right, ${MAGMA.map(colour => `#${colour}`).join(",")})`;

export function draw(canvas, { bins, frames, decibels }, [darkest, brightest]) {
  canvas.width = frames;
  canvas.height = bins;
  const image = new ImageData(frames, bins), pixels = new Uint32Array(image.data.buffer);
  for (let frame = 0; frame < frames; frame++) {
    for (let bin = 0; bin < bins; bin++) {
      const part = (decibels[frame * bins + bin] - darkest) / (brightest - darkest);
      pixels[(bins - 1 - bin) * frames + frame] = COLOURS[Math.round(255 * Math.min(1, Math.max(0, part)))];
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const COLOURS = Uint32Array.from({ length: 256 }, (_, level) => {
  const position = level / 255 * (MAGMA.length - 1), index = Math.min(Math.floor(position), MAGMA.length - 2);
  const [low, high] = [index, index + 1].map(number => parseInt(MAGMA[number], 16));
  const mixed = shift => Math.round((low >> shift & 255) + (position - index) * ((high >> shift & 255) - (low >> shift & 255)));
  return (255 << 24 | mixed(0) << 16 | mixed(8) << 8 | mixed(16)) >>> 0; // ABGR in memory order RGBA
});
