"""Signal processing with no learnt weights. Nothing is imported here: an application has no torch.

window.py      windows of analysis and synthesis
stft.py        frames and their overlap-add, and the STFT
spectra.py     small functions on spectra: magnitude, complex mask
erb.py         ERB bands
attenuation.py the limit on how much is taken away
alignment.py, gate.py, snr.py   delays, a spectral gate, levels of noise
"""
