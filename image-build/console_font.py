#!/usr/bin/env python3
"""Make the console's font: Debian's Terminus, with the bars, blocks and marks that the program draws.

    console_font.py SOURCE.psf.gz TARGET.psf.gz

The Linux console shows at most 512 glyphs, and Terminus for it has no parts of blocks.  Signs that nobody misses here
(faces, currency of long ago, some of mathematics) give their places to them; what looks alike shares a glyph.
The format is PSF 1: a header of four bytes, 16 bytes a glyph (a byte a row), then for each glyph its code points as
little-endian 16-bit units, ended by 0xFFFF (kbd's documentation, "font-formats").
"""

import gzip
import struct
import sys
from pathlib import Path

HEIGHT, GLYPHS = 16, 512
MAGIC, MODE_512, MODE_UNICODE, END = b"\x36\x04", 1, 2, 0xFFFF

#: Whose glyphs are drawn anew.
GIVEN_UP = "☺☻☼⌐⌠⌡⌂∟⇐⇑⇒⇓⇔₧₮Ṁṁϳϴⁿ∅∧∨∪∩‼↨‗"

#: Code points that are shown with the glyph of another.
ALIKE = {"►": "▶", "◄": "◀", "❯": ">", "❮": "<", "⏺": "●", "✔": "✓", "╴": "─", "╶": "─", "╵": "│", "╷": "│"}


def rows(above: int, *lines: str) -> bytes:
    """A glyph from lines of eight signs, a space for what stays dark, ``above`` empty rows on top."""
    drawn = bytes(int("".join("0" if sign == " " else "1" for sign in f"{line:8}"), 2) for line in lines)
    return (bytes(above) + drawn).ljust(HEIGHT, b"\0")


def drawn() -> dict[str, bytes]:
    """The new glyphs."""
    full, empty = b"\xff", b"\0"
    glyphs = {}
    for eighths in range(1, 8):
        glyphs[chr(0x2580 + eighths)] = empty * (HEIGHT - 2 * eighths) + full * (2 * eighths)  # ▁ to ▇
        glyphs[chr(0x2590 - eighths)] = bytes([0x100 - (1 << (8 - eighths))]) * HEIGHT  # ▏ to ▉
    glyphs["▀"] = full * 8 + empty * 8
    glyphs["▐"] = b"\x0f" * HEIGHT
    glyphs["▓"] = b"\xee\xbb" * 8
    glyphs["▔"] = full * 2 + empty * 14
    glyphs["▕"] = b"\x01" * HEIGHT
    glyphs["✓"] = rows(4, "       #", "      ##", "      #", "     ##", "#    #", "##  ##", " ## #", "  ###", "   #")
    glyphs["○"] = rows(5, "  ####", " #    #", "#      #", "#      #", "#      #", " #    #", "  ####")
    glyphs["□"] = rows(5, "#######", *["#     #"] * 5, "#######")
    glyphs["▪"] = rows(6, *["  ####"] * 4)
    return glyphs


def decode(font: bytes) -> tuple[list[bytes], list[list[int]]]:
    """Glyphs and, of each, the units that name it.  Raises ValueError for another kind of font."""
    if font[:2] != MAGIC or font[2] & (MODE_512 | MODE_UNICODE) != MODE_512 | MODE_UNICODE or font[3] != HEIGHT:
        raise ValueError("not a PSF 1 font of 512 glyphs, 16 rows each, with code points")
    glyphs = [font[4 + index * HEIGHT : 4 + (index + 1) * HEIGHT] for index in range(GLYPHS)]
    names: list[list[int]] = [[]]
    table = font[4 + GLYPHS * HEIGHT :]
    for unit in struct.unpack(f"<{len(table) // 2}H", table):
        if unit == END:
            names.append([])
        else:
            names[-1].append(unit)
    return glyphs, names[:GLYPHS]


def encode(glyphs: list[bytes], names: list[list[int]]) -> bytes:
    """The font as a file."""
    units = [unit for named in names for unit in (*named, END)]
    return MAGIC + bytes([MODE_512 | MODE_UNICODE, HEIGHT]) + b"".join(glyphs) + struct.pack(f"<{len(units)}H", *units)


def place(names: list[list[int]], sign: str) -> int | None:
    """The glyph that shows ``sign``."""
    return next((index for index, named in enumerate(names) if ord(sign) in named), None)


def main(source: Path, target: Path) -> None:
    """Write the font."""
    glyphs, names = decode(gzip.decompress(source.read_bytes()))
    free = [index for sign in GIVEN_UP if (index := place(names, sign)) is not None and names[index]]
    free = list(dict.fromkeys(free))
    for sign, glyph in drawn().items():
        there = place(names, sign)
        if there is not None and len(names[there]) == 1:
            index = there
        else:
            if there is not None:  # shown so far with the glyph of another sign
                names[there].remove(ord(sign))
            index = free.pop(0)
            names[index] = [ord(sign)]
        glyphs[index] = glyph
    for sign, like in ALIKE.items():
        index = place(names, like)
        if place(names, sign) is None and index is not None:
            names[index].insert(0, ord(sign))
    target.write_bytes(gzip.compress(encode(glyphs, names), mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
