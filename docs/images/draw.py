"""Draw the diagrams of the documentation as SVG files beside this script: python docs/images/draw.py"""

from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
INK, LINE, PAPER = "#1f2a44", "#5a6685", "#ffffff"
FILLS = {"signal": "#eef1f6", "fixed": "#fdf3d8", "trained": "#dcebfb", "recurrent": "#d9f0e3", "late": "#f6dfd7"}
WIDTH = 560  # of a diagram of blocks: its text can still be read on a phone


class Drawing:
    """A picture on white paper. Coordinates are pixels from the upper left corner."""

    def __init__(self, width: int, height: int, title: str):
        self.size, self.title, self.shapes = (width, height), title, []

    def box(self, x, y, width, height, text, kind="trained"):
        """Draw a box whose first line is a name in bold, and whose other lines are details."""
        self.shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{FILLS[kind]}" stroke="{LINE}"/>'
        )
        lines = text.split("\n")
        first = y + height / 2 + 5 - 8.5 * (len(lines) - 1)
        for number, line in enumerate(lines):
            style = 'font-weight="600"' if number == 0 else 'font-size="12.5"'
            self.text(x + width / 2, first + 17 * number, line, style)

    def text(self, x, y, text, style=""):
        if "text-anchor" not in style:
            style += ' text-anchor="middle"'
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" {style.strip()}>{escape(text)}</text>')

    def arrow(self, *points, dashed=False):
        """Draw a line through (x, y) points, with a head at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.6"{dash} marker-end="url(#head)"/>'
        )

    def svg(self) -> str:
        width, height = self.size
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
                f'height="{height}" font-family="Arial, Helvetica, sans-serif" font-size="14" fill="{INK}" role="img">',
                f"<title>{escape(self.title)}</title>",
                '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
                f'orient="auto"><path d="M0 0L10 5L0 10z" fill="{LINE}"/></marker></defs>',
                f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
                *self.shapes,
                "</svg>\n",
            ]
        )


def u_shape(title: str, levels: list[tuple], bottom: list[tuple], into: str, out_of: str) -> str:
    """Draw an encoder downwards on the left, the layers `bottom` below, and a decoder upwards on the right.

    levels: (left box, right box, label of the arrow from left to right), a box being (text, kind) or None.
    into, out_of: the names of the input and the output.
    """
    column, left, right, step, tall = 215, 20, 325, 68, 50
    top = 62
    height = top + step * (len(levels) + len(bottom)) + 12
    drawing = Drawing(WIDTH, height, title)
    centre = {"left": left + column / 2, "right": right + column / 2}
    drawing.box(left, 12, column, 34, into, "signal")
    drawing.box(right, 12, column, 34, out_of, "signal")
    above = {"left": 46, "right": 46}  # the lower edge of the last box of each column
    for number, (encoder, decoder, link) in enumerate(levels):
        y = top + step * number
        for side, x, box in (("left", left, encoder), ("right", right, decoder)):
            if box:
                drawing.box(x, y, column, tall, *box)
                ends = (centre[side], above[side]), (centre[side], y)
                drawing.arrow(*(ends if side == "left" else ends[::-1]))
                above[side] = y + tall
        if link is not None:
            drawing.arrow((left + column, y + tall / 2), (right, y + tall / 2), dashed=True)
            drawing.text((left + column + right) / 2, y + tall / 2 - 7, link, 'font-size="12.5"')
    y = top + step * len(levels)
    for number, box in enumerate(bottom):
        drawing.box(130, y + step * number, 300, tall, *box)
        if number:
            drawing.arrow((WIDTH / 2, y + step * number - step + tall), (WIDTH / 2, y + step * number))
    drawing.arrow((centre["left"], above["left"]), (centre["left"], y + tall / 2), (130, y + tall / 2))
    end = y + step * (len(bottom) - 1) + tall / 2
    drawing.arrow((430, end), (centre["right"], end), (centre["right"], above["right"]))
    return drawing.svg()


def mask_network(title: str, features: tuple, blocks: list[tuple], bottom: list[tuple]) -> str:
    """Draw a network over ERB bands that predicts a complex mask. blocks: (encoder box, decoder box)."""
    levels = [
        (("|S|, re, im", "fixed"), ("mask × noisy spectrum\n257 bins", "fixed"), "S"),
        (("129 ERB bands\n65 low bins + 64 bands", "fixed"), ("bands → bins\n129 → 257", "fixed"), None),
        (features, None, None),
        *((encoder, decoder, "skip, added") for encoder, decoder in blocks),
    ]
    return u_shape(title, levels, bottom, "noisy spectrum S", "enhanced spectrum")


def gtcrn() -> str:
    blocks = [
        (
            ("Conv 1×5, ↓2\n9 → 16 channels, 65 bands", "trained"),
            ("Transposed conv, ↑2\n16 → 2 channels, tanh", "trained"),
        ),
        (
            ("Conv 1×5, ↓2, 2 groups\n16 channels, 33 bands", "trained"),
            ("Transposed conv, ↑2\n16 channels, 2 groups", "trained"),
        ),
        *(
            (
                (f"GTConv block, dilation {d}\nhalf of the channels, GRU gate", "recurrent"),
                (f"GTConv block, dilation {d}\ntransposed, GRU gate", "recurrent"),
            )
            for d in (1, 2, 5)
        ),
    ]
    features = ("Subband features (SFE)\n3 → 9 channels: neighbours", "fixed")
    return mask_network(
        "GTCRN", features, blocks, [("2 × grouped dual-path RNN\nacross frequency, then along time", "recurrent")]
    )


def light_v3() -> str:
    blocks = [
        (
            ("Separable conv 1×3, ↓2\n3 → 12 channels, 65 bands", "trained"),
            ("Separable conv 1×3, ↑2\n12 → 2 channels, PReLU", "trained"),
        ),
        (
            ("Separable conv 1×3, ↓2\n12 channels, 33 bands", "trained"),
            ("Separable conv 1×3, ↑2\n12 channels", "trained"),
        ),
        *(
            (
                (f"GTConvLite, dilation {d}\nresidual, gate by a conv", "trained"),
                (f"GTConvLite, dilation {d}\nresidual, gate by a conv", "trained"),
            )
            for d in (1, 2, 5)
        ),
    ]
    return mask_network(
        "GTCRN-Light v3",
        ("SFE-Lite\na depthwise conv 1×3", "trained"),
        blocks,
        [("2 × dual-path RNN\nin a bottleneck of r = 9 channels", "recurrent")],
    )


def micro() -> str:
    blocks = [
        (
            ("Conv 1×5, ↓2\n3 → 16 channels, 65 bands", "trained"),
            ("Transposed conv, ↑2\n16 → 2 channels, tanh", "trained"),
        ),
        (("Conv 1×5, ↓2\n16 channels, 33 bands", "trained"), ("Transposed conv, ↑2\n16 channels", "trained")),
        *[
            (
                ("GTConv block\ndepthwise 3×3, gate by a conv", "trained"),
                ("GTConv block\ndense 3×3, gate by a conv", "trained"),
            )
        ]
        * 3,
    ]
    return mask_network(
        "GTCRN-Micro",
        ("SFE-Lite\na depthwise conv 1×3", "trained"),
        blocks,
        [("2 × 4 temporal convolutions\n3 frames, 1, 2, 4, 8 apart", "trained")],
    )


def timbre() -> str:
    levels = [
        (None, ("Conv, kernel 7\n64 → 1 channel", "trained"), None),
        *(
            ((encoder, "trained"), (f"Transposed conv, ↑2\nmerge, residual, {channels} channels", "trained"), "skip")
            for channels, encoder in (
                (64, "Conv, kernel 7\n64 channels, 48 kHz"),
                (128, "Conv, ↓2, residual block\n128 channels, 24 kHz"),
                (256, "Conv, ↓2, residual block\n256 channels, 12 kHz"),
            )
        ),
        (("Conv, ↓2, residual block\n512 channels, 6 kHz", "trained"), None, None),
    ]
    gru = "GRU, 2 layers of 512\nalong time, linear projection", "recurrent"
    return u_shape("Timbre restoration", levels, [gru], "degraded samples x", "x + correction")


def dtln() -> str:
    drawing = Drawing(WIDTH, 470, "DTLN")
    left = [
        ("frame\n512 samples, every 128", "signal"),
        ("FFT\n257 bins", "fixed"),
        ("2 LSTMs of 128\nover |S|; dense, sigmoid", "recurrent"),
        ("mask × spectrum\nthe noisy phase stays", "fixed"),
        ("inverse FFT\n512 samples", "fixed"),
    ]
    right = [
        ("learned basis\n512 samples → 256", "trained"),
        ("layer norm\nof each frame alone", "trained"),
        ("2 LSTMs of 128\ndense, sigmoid", "recurrent"),
        ("mask × basis\nmay correct the phase", "fixed"),
        ("learned decoder\n256 → 512 samples", "trained"),
        ("overlap-add\nenhanced samples", "signal"),
    ]
    for x, boxes, name in ((40, left, "first stage"), (325, right, "second stage")):
        drawing.text(x + 97, 22, name, 'font-size="12.5"')
        for number, box in enumerate(boxes):
            y = 34 + 72 * number
            drawing.box(x, y, 195, 50, *box)
            if number:
                drawing.arrow((x + 97, y - 22), (x + 97, y))
    drawing.arrow((40, 131), (20, 131), (20, 275), (40, 275), dashed=True)
    drawing.arrow((520, 59), (540, 59), (540, 275), (520, 275), dashed=True)
    drawing.arrow((235, 347), (280, 347), (280, 59), (325, 59))
    return drawing.svg()


def latency() -> str:
    """Draw the hops of the input, the frames that cover them, and the output, each at the time when it is heard."""
    hop, left = 100, 20
    drawing = Drawing(left * 2 + 6 * hop, 420, "Where the delay of a stream comes from")

    def heading(y, text):
        drawing.text(left, y, text, 'text-anchor="start" font-weight="600"')

    heading(24, "Input: hops of 256 samples, 16 ms each")
    for number in range(6):
        drawing.box(left + hop * number, 34, hop, 34, f"in {number}", "late" if number == 1 else "signal")
    heading(98, "Frames of 512 samples: the newest hop and the one before it")
    for number in range(1, 5):
        x, y = left + hop * (number - 1), 108 + 38 * (number - 1)
        kind = "late" if number in (1, 2) else "trained"
        drawing.shapes.append(
            f'<rect x="{x}" y="{y}" width="{2 * hop}" height="32" rx="6" fill="{FILLS[kind]}" stroke="{LINE}"/>'
            f'<path d="M{x} {y + 32}Q{x + hop} {y - 24} {x + 2 * hop} {y + 32}" fill="none" stroke="{LINE}"/>'
        )
        drawing.text(x + hop, y + 24, f"frame {number}", 'font-size="12.5"')
    heading(288, "Output, as soon as both of its frames are there")
    for number in range(4):
        drawing.box(left + hop * (number + 2), 298, hop, 34, f"out {number}", "late" if number == 1 else "signal")
    for number, label in ((1, "collect a hop"), (2, "second frame")):
        x = left + hop * number
        drawing.arrow((x, 352), (x + hop, 352))
        drawing.text(x + hop / 2, 371, label, 'font-size="12.5"')
        drawing.text(x + hop / 2, 387, "16 ms", 'font-size="12.5"')
    drawing.text(left, 410, "Together 32 ms, the length of a frame.", 'text-anchor="start"')
    return drawing.svg()


PICTURES = {"gtcrn": gtcrn, "light_v3": light_v3, "micro": micro, "dtln": dtln, "timbre": timbre, "latency": latency}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (HERE / f"{name}.svg").write_text(draw())
