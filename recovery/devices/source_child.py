"""The program that ``source_process.py`` starts: reads a source as it is told, into memory that both share.

Arguments: the source, its sector size, the descriptor of the shared memory, the size of a buffer in it.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import msgspec

from recovery.devices.blockio import SourceReader
from recovery.devices.source_process import Answer, Request
from recovery.errors import RecoveryError
from recovery.extent import Extent, Extents


def main() -> None:
    """Serve requests until the input ends, or the first error that is not of the medium."""
    path, sector_bytes, descriptor, size = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    memory = memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size))
    requests = msgspec.msgpack.Decoder(Request)
    number = 1  # also of an error before the first request
    try:
        enough = memory[-mmap.PAGESIZE :]

        def interrupt() -> bool:
            _send(Answer(number, busy=True))
            return enough[0] != 0

        with SourceReader(path, sector_bytes, interrupt) as source:
            while (length := int.from_bytes(_exactly(4), "little")) > 0:
                request = requests.decode(_exactly(length))
                if request.drop_before is not None:
                    source.drop_cache(request.drop_before)
                    continue
                number = request.number
                extent = Extent(request.offset, request.length)
                used = Extents(zip(request.used[::2], request.used[1::2], strict=True))
                start = request.slot * size
                lost = source.read(extent, used, memory[start : start + size], request.effort)
                zeros_until = source.hole_end(extent.end)
                _send(Answer(number, [edge for area in lost for edge in area], zeros_until=zeros_until))
    except RecoveryError as error:
        _send(Answer(number, error=error.message, hint=error.hint))
    except BrokenPipeError:
        pass  # nobody is left to read for


def _exactly(count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = os.read(0, count - len(data))
        if not part:
            return b""
        data += part
    return data


def _send(answer: Answer) -> None:
    data = msgspec.msgpack.encode(answer)
    os.write(1, len(data).to_bytes(4, "little") + data)


if __name__ == "__main__":
    main()
