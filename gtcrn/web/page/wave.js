// Reading and writing of waves, which are Float32Array of one channel.

// opens a file of any format that this browser knows; returns a function from a rate to its wave
export async function openFile(file) {
  const bytes = await file.arrayBuffer();
  if (!bytes.byteLength) throw new Error(`${file.name} is empty: 0 bytes.`);
  return async rate => {
    try {
      // decoding resamples to the rate of the audio context
      return mixed(await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes.slice()));
    } catch {
      throw new Error(`${file.name} can't be decoded: this browser finds no sound in it. Take a WAV, FLAC, MP3, Ogg or M4A file.`);
    }
  };
}

// opens an AudioBuffer; returns a function from a rate to its wave
export function openBuffer(buffer) {
  return async rate => {
    if (rate === buffer.sampleRate) return mixed(buffer);
    const context = new OfflineAudioContext(1, Math.max(1, Math.round(buffer.duration * rate)), rate);
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(context.destination);
    source.start();
    return mixed(await context.startRendering());
  };
}

function mixed(buffer) {
  const wave = buffer.getChannelData(0).slice();
  for (let channel = 1; channel < buffer.numberOfChannels; channel++) {
    buffer.getChannelData(channel).forEach((sample, n) => { wave[n] += sample; });
  }
  return buffer.numberOfChannels > 1 ? wave.map(sample => sample / buffer.numberOfChannels) : wave;
}

// returns a WAV file of 32-bit floats, which holds the samples exactly as the model computed them
export function wav(wave, rate) {
  const header = new DataView(new ArrayBuffer(44));
  const write = (offset, text) => [...text].forEach((letter, n) => header.setUint8(offset + n, letter.charCodeAt(0)));
  write(0, "RIFF");
  header.setUint32(4, 36 + 4 * wave.length, true);
  write(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 3, true); // IEEE float
  header.setUint16(22, 1, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, 4 * rate, true);
  header.setUint16(32, 4, true);
  header.setUint16(34, 32, true);
  write(36, "data");
  header.setUint32(40, 4 * wave.length, true);
  return new Blob([header, wave], { type: "audio/wav" });
}
